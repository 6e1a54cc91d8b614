//! The acts of the story: what is done, what must be true, and how that is said.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use kube::api::DynamicObject;
use testbed::Chat;
use testbed::release::run;
use testbed::stack::seconds;

use crate::crowd::{Count, Crowd};
use crate::ground::{Ground, NAMESPACE};
use crate::load::{self, Tally};
use crate::manifests::Manifests;
use crate::meter::Meter;
use crate::objects::{self, Objects, PERSONA, POOL, TOPOLOGY};
use crate::voice::{Unmet, Voice, check};

/// Longest wait for one thing, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two lines about the same thing.
const PACE: Duration = Duration::from_millis(800);
/// Longest time without a line while requests are answered.
const SILENCE: Duration = Duration::from_secs(4);
const REQUESTS: usize = 60;
/// Requests in flight during the move.
const CLIENTS: usize = 6;
const HELPER: &str = "helper";

/// What the acts have.
pub struct Scene<'a> {
    pub ground: &'a Ground,
    pub voice: &'a Voice,
    pub chat: Chat,
    pub objects: Objects,
    pub crowd: Crowd,
}

impl Scene<'_> {
    /// A persona, from its manifest to a streamed answer.
    pub async fn first_reply(&self) -> Result<()> {
        let voice = self.voice;
        voice.title("A persona");
        let begun = Instant::now();
        self.apply(&["topology", HELPER]).await?;
        if let Some(difference) = self.ground.manifests.difference() {
            voice.more(difference);
        }
        let helper = self.objects.ready(PERSONA, HELPER, PATIENCE).await?;
        let pool = helper.data["status"]["pool"].as_str().unwrap_or_default();
        let count = self.crowd.now();
        check(
            !pool.is_empty() && count.ready == 1,
            "a Ready persona has a pool with one Ready worker",
            format!("pool {pool:?}, {count:?}"),
        )?;
        voice.line(format_args!(
            "persona {HELPER} is Ready, {} later: one worker pod in its own pool, {pool}",
            seconds(begun.elapsed())
        ));
        let question = "What is a cat?";
        voice.more(format_args!("you:    {question}"));
        let mut text = voice.stream(&format!("{HELPER}: "));
        let (asked, mut first, mut pieces) = (Instant::now(), None, 0);
        let persona = of(HELPER);
        let reply = self.chat.stream(&persona, question, |piece| {
            first.get_or_insert_with(|| (asked.elapsed(), voice.elapsed()));
            pieces += 1;
            text.piece(piece);
        });
        let reply = reply.await;
        text.end();
        let expected = "the reply streams in several pieces, to its end";
        let reply = reply.map_err(|error| Unmet::new(expected, format!("{error:#}")))?;
        let (Some((waited, since_start)), true) = (first, pieces > 1) else {
            return Err(Unmet::new(expected, format!("{pieces} pieces: {reply:?}")).into());
        };
        voice.line(format_args!(
            "streamed in {pieces} pieces, the first one {} after the question, {} after the start",
            precise(waited),
            seconds(since_start)
        ));
        Ok(())
    }

    /// Sixty requests, and the pool grows.
    pub async fn sixty_at_once(&self) -> Result<()> {
        let voice = self.voice;
        voice.title(format_args!("{REQUESTS} requests at once"));
        let before = self.answers();
        let tally = Tally::default();
        let begun = Instant::now();
        let mut growth = Growth::from(self.crowd.now());
        let was = workers(&growth.before);
        voice.line(format_args!("{was}, {REQUESTS} requests on their way"));
        let persona = of(HELPER);
        let load = load::burst(&self.chat, &persona, REQUESTS, &tally);
        match tokio::time::timeout(PATIENCE, self.watched(load, &mut growth, &tally)).await {
            Ok(done) => done?,
            Err(_) => {
                let within = PATIENCE.as_secs();
                let expected = format!("{REQUESTS} requests are answered within {within} s");
                return Err(Unmet::new(expected, format!("{} were", tally.answered())).into());
            }
        }
        voice.line(format_args!(
            "all {REQUESTS} answered in {}{}",
            seconds(begun.elapsed()),
            self.each_once(before, REQUESTS)?
        ));
        let (Some(first_new), Some(all_ready)) = (growth.first_new, growth.all_ready) else {
            let expected = "the pool grows under this load";
            return Err(Unmet::new(expected, format!("never more than {was}")).into());
        };
        voice.more(format_args!(
            "the pool grew from {} to {} workers: first new pod made after {}, all Ready after {}",
            growth.before.ready,
            growth.most_ready,
            precise(first_new),
            seconds(all_ready)
        ));
        Ok(())
    }

    /// Tells how the pool grows while `load` runs.
    async fn watched(
        &self,
        load: impl Future<Output = Result<()>>,
        growth: &mut Growth,
        tally: &Tally,
    ) -> Result<()> {
        let mut load = std::pin::pin!(load);
        let mut changes = self.crowd.changes();
        let mut follows = true;
        let (mut said, mut said_at) = (growth.before, growth.begun);
        loop {
            tokio::select! {
                done = &mut load => return done,
                // Err: the watch has ended.
                changed = changes.changed(), if follows => follows = changed.is_ok(),
                () = tokio::time::sleep(PACE) => {}
            }
            let now = self.crowd.now();
            growth.note(&now);
            let waited = said_at.elapsed();
            if now != said && waited >= PACE || waited >= SILENCE {
                let answered = tally.answered();
                self.voice
                    .line(format_args!("{}, {answered} answered", workers(&now)));
                (said, said_at) = (now, Instant::now());
            }
        }
    }

    /// The pool goes back to its minimum.
    pub async fn drain(&self) -> Result<()> {
        let voice = self.voice;
        voice.title("Nothing to do");
        let begun = Instant::now();
        let from = self.crowd.now();
        let empty = |count: &Count| count.workers == 1 && count.leaving == 0;
        if tokio::time::timeout(PATIENCE, self.crowd.until(empty))
            .await
            .is_err()
        {
            let expected = format!("one worker is left within {} s", PATIENCE.as_secs());
            return Err(Unmet::new(expected, workers(&self.crowd.now())).into());
        }
        voice.line(format_args!(
            "back from {} workers to the minimum of 1, {} after the last answer; idleTimeout is 5 s",
            from.workers,
            seconds(begun.elapsed())
        ));
        Ok(())
    }

    /// From ten pools to one, with requests in flight.
    pub async fn eleventh(&self) -> Result<()> {
        let voice = self.voice;
        voice.title("An eleventh persona");
        self.apply(&["nine-more"]).await?;
        let names = self.objects.names(PERSONA).await?;
        for name in &names {
            self.objects.ready(PERSONA, name, PATIENCE).await?;
        }
        let pools = self.objects.names(POOL).await?.len();
        check(
            names.len() == 10 && pools == 10,
            "ten personas have a pool each",
            format!("{} personas, {pools} pools", names.len()),
        )?;
        voice.line(format_args!(
            "{} personas are Ready, each on a pool of its own: {}",
            names.len(),
            workers(&self.crowd.now())
        ));
        let personas: Vec<String> = names.iter().map(|name| of(name)).collect();
        let before = self.answers();
        let tally = Tally::default();
        let load = load::steady(&self.chat, &personas, CLIENTS, &tally);
        let moving = async {
            let moved = self.move_all(&tally).await;
            tally.stop();
            moved
        };
        let (took, ()) = futures::try_join!(moving, load)?;
        voice.line(format_args!(
            "all 11 personas share one pool, {} later: {}",
            seconds(took),
            workers(&self.crowd.now())
        ));
        check(
            tally.sent() == tally.answered(),
            "no request is lost during the move",
            format!("{} of {} answered", tally.answered(), tally.sent()),
        )?;
        voice.more(format_args!(
            "{} requests were sent meanwhile, none is lost{}",
            tally.sent(),
            self.each_once(before, tally.sent())?
        ));
        Ok(())
    }

    /// Applies the eleventh and waits until all have moved and the old pools are gone.
    async fn move_all(&self, tally: &Tally) -> Result<Duration> {
        let voice = self.voice;
        // So that the first ones are in flight.
        while tally.answered() < CLIENTS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let begun = Instant::now();
        self.apply(&["eleventh"]).await?;
        let phase = |object: &DynamicObject| object.data["status"]["phase"] == "Generic";
        let topology = (TOPOLOGY, "default");
        let changed = self
            .objects
            .until(
                topology.0,
                topology.1,
                "is in phase Generic",
                PATIENCE,
                phase,
            )
            .await?;
        voice.line(format_args!(
            "the topology goes from PerPersona to Generic, with {CLIENTS} requests in flight"
        ));
        if let Some(reason) = changed.data["status"]["history"][0]["reason"].as_str() {
            voice.more(format_args!("because of {reason}"));
        }
        let there = |object: &DynamicObject| {
            let status = &object.data["status"];
            status["phase"] == "Generic"
                && status["transition"].is_null()
                && objects::is_ready(object)
        };
        self.objects
            .until(
                topology.0,
                topology.1,
                "has moved all personas",
                PATIENCE,
                there,
            )
            .await?;
        for name in self.objects.names(PERSONA).await? {
            self.objects.ready(PERSONA, &name, PATIENCE).await?;
        }
        voice.line("the shared pool serves all; the ten old ones drain and go");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pools = self.objects.names(POOL).await?;
            let count = self.crowd.now();
            if pools.len() == 1 && count.leaving == 0 {
                return Ok(begun.elapsed());
            }
            check(
                Instant::now() < deadline,
                "the pools of before are gone, and their pods",
                format!("{} pools, {}", pools.len(), workers(&count)),
            )?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As kubectl shows it.
    pub async fn table(&self) -> Result<()> {
        self.voice.title("As kubectl shows it");
        self.idle().await?;
        let kinds = "personas,workerpools,personatopologies";
        self.voice
            .command(format_args!("kubectl get {kinds} -n {NAMESPACE}"));
        let kubectl = self.ground.cluster().kubectl().await?;
        let table = run(kubectl, &["get", kinds, "-n", NAMESPACE]).await?;
        let rows = table.matches("persona.persona.dev/").count();
        check(rows == 11, "kubectl lists eleven personas", table.clone())?;
        self.voice.output(&table);
        Ok(())
    }

    /// Live numbers are written every ten seconds: waits until they tell of no more load.
    async fn idle(&self) -> Result<()> {
        let idle = |object: &DynamicObject| {
            let status = &object.data["status"];
            status["queued"] == 0 && status["running"] == 0
        };
        for kind in [PERSONA, POOL] {
            for name in self.objects.names(kind).await? {
                let what = "says that it is idle";
                self.objects
                    .until(kind, &name, what, PATIENCE, idle)
                    .await?;
            }
        }
        Ok(())
    }

    async fn apply(&self, names: &[&str]) -> Result<()> {
        let mut shown = format!("kubectl apply -n {NAMESPACE}");
        let mut args = vec!["apply".to_owned(), "-n".to_owned(), NAMESPACE.to_owned()];
        for name in names {
            // Writing to a String cannot fail.
            write!(shown, " -f {}", Manifests::shown(name)).ok();
            let file = self.ground.manifests.file(name)?;
            args.extend(["-f".to_owned(), file.display().to_string()]);
        }
        self.voice.command(shown);
        let kubectl = self.ground.cluster().kubectl().await?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(kubectl, &args).await.map(drop)
    }

    /// How often the model has answered, where that is known.
    fn answers(&self) -> Option<usize> {
        self.ground.meter.as_ref().map(Meter::answers)
    }

    /// Says that the model answered no request twice, where that is known.
    fn each_once(&self, before: Option<usize>, sent: usize) -> Result<&'static str, Unmet> {
        let (Some(before), Some(now)) = (before, self.answers()) else {
            return Ok("");
        };
        check(
            now - before == sent,
            format!("the model answers {sent} times for {sent} requests"),
            format!("it answered {} times", now - before),
        )?;
        Ok("; the model counted as many answers: none ran twice")
    }
}

/// How a pool grew, with times since the load began.
struct Growth {
    begun: Instant,
    before: Count,
    most_ready: usize,
    first_new: Option<Duration>,
    all_ready: Option<Duration>,
}

impl Growth {
    fn from(before: Count) -> Self {
        Self {
            begun: Instant::now(),
            before,
            most_ready: before.ready,
            first_new: None,
            all_ready: None,
        }
    }

    fn note(&mut self, now: &Count) {
        if now.workers > self.before.workers {
            self.first_new.get_or_insert_with(|| self.begun.elapsed());
        }
        if now.ready > self.most_ready {
            self.most_ready = now.ready;
            self.all_ready = Some(self.begun.elapsed());
        }
    }
}

/// A persona as the gateway calls it.
fn of(name: &str) -> String {
    format!("{NAMESPACE}/{name}")
}

/// For short times: `0.04 s`.
fn precise(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// `3 workers (2 Ready), 1 leaving`
fn workers(count: &Count) -> String {
    let noun = if count.workers == 1 {
        "worker"
    } else {
        "workers"
    };
    let mut text = format!("{} {noun}", count.workers);
    if count.ready < count.workers {
        // Writing to a String cannot fail.
        write!(text, " ({} Ready)", count.ready).ok();
    }
    if count.leaving > 0 {
        write!(text, ", {} leaving", count.leaving).ok();
    }
    text
}
