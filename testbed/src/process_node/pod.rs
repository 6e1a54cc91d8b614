//! The life of one pod on the node: one task that owns its state, takes news, and acts on plans.

mod act;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::Context;
use super::backoff::after;
use super::container::{ContainerProcess, Launch};
use super::downward::Addresses;
use super::lifecycle::{Action, PodState};
use super::mounts::Mounts;
use super::probes::{Kind, Verdict};
use super::state::{Phase, Retry};
use super::status::{self, Facts};
use super::writer::{self, Report};

const NEWS: usize = 64;

/// What the API server says about the pod.
#[derive(Debug, Clone)]
pub struct Update {
    pub pod: Arc<Pod>,
    /// Its object is gone.
    pub removed: bool,
}

/// What tests ask of a pod.
#[derive(Debug)]
pub enum Request {
    Signal {
        container: String,
        signal: Signal,
        reply: oneshot::Sender<Result<()>>,
    },
    Pid {
        container: String,
        reply: oneshot::Sender<Result<i32>>,
    },
}

impl Request {
    /// Answers that it cannot be done.
    pub fn refuse(self, error: anyhow::Error) {
        let delivered = match self {
            Self::Signal { reply, .. } => reply.send(Err(error)).is_ok(),
            Self::Pid { reply, .. } => reply.send(Err(error)).is_ok(),
        };
        if !delivered {
            tracing::debug!("nobody waits for the answer any more");
        }
    }
}

/// What the tasks around a container's process tell.
#[derive(Debug)]
enum News {
    Ended {
        index: usize,
        run: u32,
        code: i32,
    },
    Probed {
        index: usize,
        run: u32,
        kind: Kind,
        verdict: Verdict,
    },
}

/// One running container. Dropping it ends the process and the tasks around it.
#[derive(Debug)]
struct Run {
    process: ContainerProcess,
    launch: Arc<Launch>,
    tasks: JoinSet<()>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            tracing::warn!("{error:#}");
        }
    }
}

struct PodTask {
    cx: Arc<Context>,
    pod: Arc<Pod>,
    addresses: Addresses,
    folder: PathBuf,
    state: PodState,
    runs: Vec<Option<Run>>,
    mounts: Mounts,
    mounted: bool,
    /// The last problem with volumes, so that it is told once.
    problem: Option<String>,
    removed: bool,
    /// It had ended before this node knew it.
    over: bool,
    start_time: Timestamp,
    news: mpsc::Sender<News>,
    reports: watch::Sender<Report>,
}

/// Runs the pod until its object is gone and its processes have ended.
///
/// # Errors
/// Its folder cannot be made or removed.
pub async fn run(
    cx: Arc<Context>,
    addresses: Addresses,
    mut updates: watch::Receiver<Update>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<()> {
    let pod = Arc::clone(&updates.borrow_and_update().pod);
    let (news, mut incoming) = mpsc::channel(NEWS);
    let (reports, outgoing) = watch::channel(Report::default());
    let mut paused = cx.paused.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let (cx, pod) = (Arc::clone(&cx), Arc::clone(&pod));
        async move { writer::write(cx.client.clone(), &pod, outgoing, cx.paused.clone()).await }
    });
    let mut task = PodTask::new(cx, pod, addresses, news, reports);
    std::fs::create_dir_all(&task.folder)
        .with_context(|| format!("cannot create {}", task.folder.display()))?;
    task.updated(updates.borrow().clone());
    loop {
        let wake_at = task.step();
        task.publish();
        if task.removed && task.state.is_down() {
            break;
        }
        tokio::select! {
            changed = updates.changed() => match changed {
                Ok(()) => task.updated(updates.borrow_and_update().clone()),
                Err(_) => break,
            },
            Some(news) = incoming.recv() => task.heard(news),
            Some(request) = requests.recv() => task.answer(request),
            () = task.mounts.changed(), if !*paused.borrow_and_update() => task.remount(),
            Ok(()) = paused.changed() => {}
            () = until(wake_at) => {}
        }
    }
    std::fs::remove_dir_all(&task.folder)
        .with_context(|| format!("cannot remove {}", task.folder.display()))
}

async fn until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

impl PodTask {
    fn new(
        cx: Arc<Context>,
        pod: Arc<Pod>,
        addresses: Addresses,
        news: mpsc::Sender<News>,
        reports: watch::Sender<Report>,
    ) -> Self {
        let mut state = PodState::new(&pod, cx.options.restart_backoff);
        for container in &mut state.containers {
            if let Some(restarts) = status::earlier_restarts(&pod, &container.name) {
                container.restarts = restarts;
            }
        }
        let folder = cx
            .folder
            .join(pod.metadata.uid.as_deref().unwrap_or_default());
        Self {
            mounts: Mounts::new(&folder, &pod, &cx.client, &cx.objects),
            runs: state.containers.iter().map(|_| None).collect(),
            over: status::is_terminal(&pod),
            folder,
            state,
            addresses,
            mounted: false,
            problem: None,
            removed: false,
            start_time: Timestamp::now(),
            news,
            reports,
            cx,
            pod,
        }
    }

    fn spec(&self, index: usize) -> Option<&Spec> {
        let spec = self.pod.spec.as_ref()?;
        let init = spec.init_containers.iter().flatten();
        init.chain(&spec.containers).nth(index)
    }

    /// Does what the plans say until there is nothing to do; answers when to look again.
    fn step(&mut self) -> Option<Timestamp> {
        if self.over {
            return None;
        }
        if !self.mounted && self.state.shutdown.is_none() {
            self.remount();
            if !self.mounted {
                return None;
            }
        }
        loop {
            let now = Timestamp::now();
            let plan = self.state.plan(now);
            if plan.actions.is_empty() {
                return plan.wake_at;
            }
            for action in plan.actions {
                match action {
                    Action::Start(index) => self.start(index, now),
                    Action::Terminate(index, kill_at) => self.terminate(index, kill_at, now),
                    Action::Kill(index) => self.kill(index),
                }
            }
        }
    }

    fn updated(&mut self, update: Update) {
        self.pod = update.pod;
        self.removed = update.removed;
        let meta = &self.pod.metadata;
        if self.removed || meta.deletion_timestamp.is_some() {
            let spec = self.pod.spec.as_ref();
            let grace = meta.deletion_grace_period_seconds;
            let grace = grace.or(spec.and_then(|s| s.termination_grace_period_seconds));
            let grace = u64::try_from(grace.unwrap_or(30)).unwrap_or(0).max(1);
            let kill_at = after(Timestamp::now(), Duration::from_secs(grace));
            self.state.shut_down(kill_at);
        } else if self.mounted {
            self.remount();
        }
    }

    /// Brings the volumes up to date; the containers start when they are there for the first time.
    fn remount(&mut self) {
        if !self.mounts.is_known() {
            return;
        }
        let result = self.mounts.sync(&self.pod, self.addresses);
        let problem = result.err().map(|error| format!("{error:#}"));
        if let Some(problem) = problem.as_ref()
            && self.problem.as_ref() != Some(problem)
        {
            let events = &self.cx.events;
            events.warning(&self.pod, "FailedMount", problem.clone());
        }
        self.mounted |= problem.is_none();
        self.problem = problem;
        for container in &mut self.state.containers {
            if let Phase::Waiting { retry, .. } = &mut container.phase
                && matches!(retry, Retry::At(_))
            {
                *retry = Retry::Now;
            }
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Ended { index, run, code } if self.is_current(index, run) => {
                let message = self.last_words(index, code);
                self.runs[index] = None;
                self.state.containers[index].ended(code, message, Timestamp::now());
                let container = &self.state.containers[index];
                if let Phase::Ended(ended) = &container.phase
                    && self.state.restarts(container, ended)
                    && !container.backoff.delay(ended.finished_at).is_zero()
                {
                    let note = status::back_off_message(&self.pod, container, ended);
                    self.cx.events.warning(&self.pod, "BackOff", note);
                }
            }
            News::Probed {
                index,
                run,
                kind,
                verdict,
            } if self.is_current(index, run) => {
                self.state.probed(index, kind, &verdict);
                if let Verdict::Failed { message, .. } = verdict {
                    let note = format!("{} probe failed: {message}", kind.name());
                    self.cx.events.warning(&self.pod, "Unhealthy", note);
                }
            }
            News::Ended { .. } | News::Probed { .. } => {}
        }
    }

    fn is_current(&self, index: usize, run: u32) -> bool {
        self.state.containers[index].run == run
    }

    fn publish(&mut self) {
        let facts = Facts {
            pod: &self.pod,
            addresses: self.addresses,
            start_time: self.start_time,
            mounted: self.mounted,
        };
        let deleting = self.pod.metadata.deletion_timestamp.is_some();
        self.reports.send_if_modified(|report| {
            let before = report.status.as_ref().or(self.pod.status.as_ref());
            let status = status::build(&facts, &self.state, before, Timestamp::now());
            let next = Report {
                status: (!self.over).then_some(status),
                finalize: deleting && self.state.is_down(),
            };
            let changed = *report != next;
            *report = next;
            changed
        });
    }
}
