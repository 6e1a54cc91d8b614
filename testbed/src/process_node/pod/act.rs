//! What a pod's task does to processes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Container as Spec;
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::{News, PodTask, Request, Run};
use crate::component;
use crate::process_node::backoff::after;
use crate::process_node::check::{Check, Checker};
use crate::process_node::container::Launch;
use crate::process_node::probes;
use crate::process_node::start::{Obstacle, Surroundings};
use crate::process_node::state::{Phase, Retry, Stopping};

/// How often a container is tried again whose configuration is not complete.
const CONFIG_RETRY: Duration = Duration::from_secs(2);

impl PodTask {
    pub(super) fn start(&mut self, index: usize, now: Timestamp) {
        let Some(spec) = self.spec(index).cloned() else {
            return;
        };
        let surroundings = Surroundings {
            cx: &self.cx,
            pod: &self.pod,
            addresses: self.addresses,
            mounts: &self.mounts,
            folder: &self.folder,
        };
        let (reason, message, retry) = match surroundings.launch(&spec) {
            Ok(launch) => return self.spawn(index, &spec, launch, now),
            Err(Obstacle::Image(message)) => ("ErrImagePull", message, Retry::Never),
            Err(Obstacle::Config(message)) => {
                let retry = Retry::At(after(now, CONFIG_RETRY));
                ("CreateContainerConfigError", message, retry)
            }
        };
        let phase = Phase::Waiting {
            reason,
            message: Some(message.clone()),
            retry,
        };
        let told = matches!(&self.state.containers[index].phase,
            Phase::Waiting { message: Some(before), .. } if *before == message);
        if !told {
            self.cx.events.warning(&self.pod, "Failed", message);
        }
        self.state.containers[index].phase = phase;
    }

    fn spawn(&mut self, index: usize, spec: &Spec, launch: Launch, now: Timestamp) {
        let container = &mut self.state.containers[index];
        let process = match launch.spawn() {
            Ok(process) => process,
            Err(error) => {
                let message = format!("{error:#}");
                self.cx.events.warning(&self.pod, "Failed", message.clone());
                container.failed_to_start(message, now);
                return;
            }
        };
        container.started(process.pid(), now);
        let (run, launch) = (container.run, Arc::new(launch));
        let mut tasks = JoinSet::new();
        let (ended, news) = (process.clone(), self.news.clone());
        tasks.spawn(async move {
            let code = ended.wait().await.unwrap_or_else(|error| {
                tracing::warn!("{error:#}");
                255
            });
            // Err: nobody is there any more who would want to know.
            news.send(News::Ended { index, run, code }).await.ok();
        });
        let (spec, checker, news) = (spec.clone(), self.checker(&launch), self.news.clone());
        tasks.spawn(async move {
            let report = |kind, verdict| {
                let news = news.clone();
                async move {
                    let probed = News::Probed {
                        index,
                        run,
                        kind,
                        verdict,
                    };
                    news.send(probed).await.ok();
                }
            };
            probes::run(&spec, Arc::new(checker), report).await;
        });
        self.runs[index] = Some(Run {
            process,
            launch,
            tasks,
        });
    }

    fn checker(&self, launch: &Arc<Launch>) -> Checker {
        Checker {
            client: self.cx.http.clone(),
            pod_ip: self.addresses.pod,
            launch: Arc::clone(launch),
        }
    }

    /// The preStop hook, if there is one, and SIGTERM.
    pub(super) fn terminate(&mut self, index: usize, kill_at: Timestamp, now: Timestamp) {
        let hook = self.spec(index).and_then(|spec| {
            let hook = spec.lifecycle.as_ref()?.pre_stop.as_ref()?;
            Some(Check::of_hook(hook, spec))
        });
        let Phase::Running(running) = &mut self.state.containers[index].phase else {
            return;
        };
        running.stopping = Some(Stopping {
            kill_at,
            killed: false,
        });
        let Some(launch) = self.runs[index].as_ref().map(|r| Arc::clone(&r.launch)) else {
            return;
        };
        let checker = self.checker(&launch);
        let Some(run) = &mut self.runs[index] else {
            return;
        };
        let note = format!("Stopping container {}", self.state.containers[index].name);
        self.cx.events.normal(&self.pod, "Killing", note);
        let process = run.process.clone();
        let terminate = move || {
            if let Err(error) = process.signal(Signal::SIGTERM) {
                tracing::warn!("{error:#}");
            }
        };
        let Some(hook) = hook else {
            return terminate();
        };
        let left = Duration::try_from(kill_at.duration_since(now)).unwrap_or_default();
        let (events, pod) = (self.cx.events.clone(), Arc::clone(&self.pod));
        run.tasks.spawn(async move {
            // Err: the grace is over, and SIGKILL is on its way.
            if let Ok(Err(error)) = tokio::time::timeout(left, checker.check(&hook)).await {
                events.warning(&pod, "FailedPreStopHook", format!("{error:#}"));
            }
            terminate();
        });
    }

    pub(super) fn kill(&mut self, index: usize) {
        if let Phase::Running(running) = &mut self.state.containers[index].phase
            && let Some(stopping) = &mut running.stopping
        {
            stopping.killed = true;
        }
        if let Some(run) = &self.runs[index]
            && let Err(error) = run.process.kill()
        {
            tracing::warn!("{error:#}");
        }
    }

    /// The end of the log, for containers that want it as their termination message.
    pub(super) fn last_words(&self, index: usize, code: i32) -> Option<String> {
        let policy = self.spec(index)?.termination_message_policy.as_deref();
        if code == 0 || policy != Some("FallbackToLogsOnError") {
            return None;
        }
        let log = &self.runs[index].as_ref()?.launch.log;
        component::tail(log, 20).ok()
    }

    pub(super) fn answer(&self, request: Request) {
        let run = |name: &str| {
            let index = self.state.containers.iter().position(|c| c.name == name);
            let index = index.with_context(|| format!("the pod has no container {name}"))?;
            let run = self.runs[index].as_ref();
            run.ok_or_else(|| anyhow!("container {name} is not running"))
        };
        // Not delivered only when the asker has given up.
        let delivered = match request {
            Request::Signal {
                container,
                signal,
                reply,
            } => reply
                .send(run(&container).and_then(|r| r.process.signal(signal)))
                .is_ok(),
            Request::Pid { container, reply } => {
                reply.send(run(&container).map(|r| r.process.pid())).is_ok()
            }
        };
        if !delivered {
            tracing::debug!("nobody waits for the answer any more");
        }
    }
}
