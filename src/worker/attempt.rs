//! One task, from its take until the queue knows what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use super::answer::{Answer, MOST_ANSWER, completed, size};
use super::configs::Found;
use super::emitter::Stream;
use super::roster::{Stop, Ticket};
use super::verdict::{Situation, Verdict};
use super::{BACKOFF, Context};
use crate::api::runtime::PersonaConfig;
use crate::provider::{Call, Credential, Delta, End, Event, ProviderError, ReplyStream};
use crate::queue::QueueError;
use crate::queue::listen::pause;
use crate::queue::task::{OutcomeKind, TaskError, code};
use crate::queue::work::{Fenced, LEASE, Taken};

/// How long the end of a task is kept for a queue that is away. Its lease does not end meanwhile: leases are
/// reaped only after a full lease of contact, and renewed as soon as the queue is back.
const KEPT: Duration = Duration::from_secs(600);

/// Runs a task. Its slot is free again when the queue knows the end, or does not want to.
pub async fn run(context: Arc<Context>, taken: Taken, mut ticket: Ticket) {
    context.metrics.waited(taken.waited);
    let mut attempt = Attempt {
        began: Instant::now(),
        first_token: false,
        said: 0,
        whole: Answer::default(),
        stream: taken.stream.then(|| context.emitter.open(&taken)),
        context: &context,
        taken: &taken,
    };
    let verdict = tokio::select! {
        biased;
        stop = ticket.stopped() => match stop {
            Stop::Lost => None,
            Stop::Shutdown => Some(Verdict::hand_back()),
        },
        verdict = attempt.verdict() => Some(verdict),
    };
    let told = async {
        match &verdict {
            Some(verdict) => attempt.tell(verdict).await,
            None => false,
        }
    };
    let told = tokio::select! {
        () = ticket.lost(), if verdict.is_some() => false,
        told = told => told,
    };
    let took = attempt.began.elapsed();
    // Closes the stream.
    drop(attempt);
    drop(ticket);
    if let Some(Verdict::Finish(outcome)) = verdict
        && told
    {
        context.metrics.ended(outcome.outcome, took);
    }
}

struct Attempt<'a> {
    context: &'a Context,
    taken: &'a Taken,
    began: Instant,
    first_token: bool,
    /// Bytes of the answer so far.
    said: usize,
    /// The answer of a task that does not stream.
    whole: Answer,
    stream: Option<Stream>,
}

/// Why an attempt did not begin.
enum Fault {
    /// The task cannot be run; another attempt would not mend that.
    Refused(TaskError),
    /// The queue went away, or the persona has another configuration since the task was taken.
    NotHere,
}

impl Attempt<'_> {
    async fn verdict(&mut self) -> Verdict {
        let (config, request) = match self.prepare().await {
            Ok(prepared) => prepared,
            Err(Fault::Refused(error)) => return Verdict::failed(error),
            Err(Fault::NotHere) => return Verdict::hand_back(),
        };
        let count = Counted::begin(self.context, &config);
        let result = self.call(&config, request).await;
        count.end(&result);
        match (result, &self.stream) {
            (Ok(end), Some(_)) => Verdict::Finish(completed(&end)),
            (Ok(end), None) => Verdict::Finish(std::mem::take(&mut self.whole).outcome(&end)),
            (Err(error), _) => self.judge(&error, &config).await,
        }
    }

    async fn judge(&self, error: &ProviderError, config: &PersonaConfig) -> Verdict {
        let taken = self.taken;
        tracing::debug!(task = taken.task, attempt = taken.attempt, %error, "an attempt failed");
        let emitted = self.stream.as_ref().is_some_and(Stream::begun);
        let adapters = &self.context.adapters;
        if adapters.is_away(config, &taken.task, error).await && !emitted {
            return Verdict::hand_back();
        }
        Verdict::on(
            error,
            Situation {
                attempt: taken.attempt,
                max_attempts: config.max_attempts,
                emitted,
                remaining: taken.deadline_in.saturating_sub(self.began.elapsed()),
                jitter: rand::random(),
            },
        )
    }

    async fn prepare(&self) -> Result<(Arc<PersonaConfig>, Map<String, Value>), Fault> {
        let payload = self.taken.parse().map_err(|error| {
            let message = format!("{error}; let gateway and workers run the same version");
            refused("payload_invalid", 500, &message)
        })?;
        let Value::Object(request) = payload.request else {
            let message = "the request must be a JSON object";
            return Err(refused("invalid_request_error", 400, message));
        };
        Ok((self.config().await?, request))
    }

    async fn config(&self) -> Result<Arc<PersonaConfig>, Fault> {
        let mut failures = 0;
        loop {
            let queue = self.context.link.queue();
            let error = match self.context.configs.of(self.taken, &queue).await {
                Ok(Found::Config(config)) => return Ok(config),
                Ok(Found::Changed) => return Err(Fault::NotHere),
                Ok(Found::Gone) => {
                    let message = "the persona was deleted; create it again, or ask another one";
                    return Err(refused(code::PERSONA_DELETED, 404, message));
                }
                Err(error) => error,
            };
            if let QueueError::Protocol { .. } = error {
                let message =
                    format!("{error}; let the controller and its workers run the same version");
                return Err(refused("configuration_invalid", 500, &message));
            }
            self.context.link.note(&Err::<(), _>(error));
            if self.began.elapsed() > LEASE {
                return Err(Fault::NotHere);
            }
            failures += 1;
            sleep(pause(BACKOFF, failures)).await;
        }
    }

    async fn call(
        &mut self,
        config: &Arc<PersonaConfig>,
        request: Map<String, Value>,
    ) -> Result<End, ProviderError> {
        let context = self.context;
        let credential = match &config.api_key {
            Some(reference) => {
                let read = context.credentials.read(reference);
                if read.is_err() {
                    context.lanes.forget();
                }
                Some(read?)
            }
            None => None,
        };
        let time = Duration::from_millis(config.timeout_ms);
        let asking = async {
            let copy = config.adapter.is_some().then(|| request.clone());
            let result = self.ask(config, request, credential.clone(), time).await;
            match (result, copy) {
                (Err(error), Some(copy)) if context.adapters.hear(config, &error) => {
                    self.ask(config, copy, credential, time).await
                }
                (result, _) => result,
            }
        };
        // The provider keeps the time while it is asked; this one counts the waits for Redis and for an
        // adapter, too.
        timeout(time, asking)
            .await
            .unwrap_or(Err(ProviderError::Timeout(time)))
    }

    async fn ask(
        &mut self,
        config: &Arc<PersonaConfig>,
        request: Map<String, Value>,
        credential: Option<Credential>,
        timeout: Duration,
    ) -> Result<End, ProviderError> {
        let (selection, _in_use) = self.context.adapters.select(config).await?;
        let stream = self.context.providers.of(config.provider)?.chat(Call {
            config: config.clone(),
            request,
            selection,
            credential,
            timeout,
        });
        self.read(config, stream).await
    }

    async fn read(
        &mut self,
        config: &PersonaConfig,
        mut stream: ReplyStream,
    ) -> Result<End, ProviderError> {
        while let Some(event) = stream.next().await {
            if !self.first_token {
                // A server that swaps models has this one now.
                self.context.adapters.answers(config);
            }
            match event? {
                Event::Delta(delta) => self.piece(delta).await?,
                Event::End(end) => return Ok(end),
            }
        }
        // The providers' streams end with an end or an error.
        Err(ProviderError::Truncated("an end"))
    }

    async fn piece(&mut self, delta: Delta) -> Result<(), ProviderError> {
        self.said += size(&delta);
        if self.said > MOST_ANSWER {
            return Err(ProviderError::TooLarge {
                what: "text and tool calls",
                limit: MOST_ANSWER,
            });
        }
        if !self.first_token {
            self.first_token = true;
            self.context.metrics.first_token(self.began.elapsed());
        }
        match &mut self.stream {
            Some(stream) => stream.push(delta).await,
            None => self.whole.push(delta),
        }
        Ok(())
    }

    /// Tells the queue, until it has heard; an outage that lasts too long ends that. Answers whether it
    /// was accepted.
    async fn tell(&self, verdict: &Verdict) -> bool {
        let telling = async {
            if let (Verdict::Finish(_), Some(stream)) = (verdict, &self.stream) {
                stream.flush().await;
            }
            self.hand_in(verdict).await
        };
        match timeout(KEPT, telling).await {
            Ok(answer) => answer == Fenced::Accepted,
            Err(_) => {
                tracing::warn!(
                    task = self.taken.task,
                    "the queue is away: a task's end is given up, it runs again"
                );
                false
            }
        }
    }

    async fn hand_in(&self, verdict: &Verdict) -> Fenced {
        let (task, fence) = (&self.taken.task, &self.taken.fence);
        let mut failures = 0;
        let began = Instant::now();
        loop {
            let queue = self.context.link.queue();
            let result = match verdict {
                Verdict::Finish(outcome) => queue.finish(task, fence, outcome).await,
                Verdict::Release { reason, not_before } => {
                    queue.release(task, fence, *reason, *not_before).await
                }
            };
            self.context.link.note(&result);
            match result {
                Ok(answer) => return answer,
                // The queue is there and does not take it: the lease will end.
                Err(error) if !error.is_of_all() && began.elapsed() > LEASE => return Fenced::Lost,
                Err(_) => {}
            }
            failures += 1;
            sleep(pause(BACKOFF, failures)).await;
        }
    }
}

fn refused(code: &str, http_status: u16, message: &str) -> Fault {
    Fault::Refused(TaskError {
        code: code.to_owned(),
        message: message.to_owned(),
        http_status,
        retry_after_ms: None,
    })
}

/// A call of a provider; one that is dropped in the middle counts as stopped.
struct Counted<'a> {
    context: &'a Context,
    provider: &'static str,
    result: &'static str,
}

impl<'a> Counted<'a> {
    fn begin(context: &'a Context, config: &PersonaConfig) -> Self {
        Self {
            context,
            provider: config.provider.as_str(),
            result: "stopped",
        }
    }

    fn end(mut self, result: &Result<End, ProviderError>) {
        self.result = match result {
            Ok(end) => {
                if let Some(usage) = end.usage {
                    self.context.metrics.tokens(self.provider, usage);
                }
                OutcomeKind::Completed.as_str()
            }
            Err(error) => error.reason(),
        };
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.context.metrics.attempt(self.provider, self.result);
    }
}
