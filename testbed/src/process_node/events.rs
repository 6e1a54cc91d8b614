//! Events of pods, as `kubectl describe pod` shows them.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;

/// Events wait here for the API server; more than these at once are dropped, as events may be.
const QUEUE: usize = 256;

#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// Of the node `node`; the writer ends with the last clone of the answer.
    pub fn new(client: Client, node: &str) -> Self {
        let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        let reporter = Reporter {
            controller: "kubelet".into(),
            instance: Some(node.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((event, pod)) = queue.recv().await {
                if let Err(error) = recorder.publish(&event, &pod).await {
                    tracing::debug!("event {}: {error}", event.reason);
                }
            }
        });
        Self(sender)
    }

    pub fn normal(&self, pod: &Pod, reason: &str, note: String) {
        self.send(pod, EventType::Normal, reason, note);
    }

    pub fn warning(&self, pod: &Pod, reason: &str, note: String) {
        self.send(pod, EventType::Warning, reason, note);
    }

    fn send(&self, pod: &Pod, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if self.0.try_send((event, pod.object_ref(&()))).is_err() {
            tracing::debug!("event {reason} dropped");
        }
    }
}
