//! The story, in the order in which it is told.

use std::fs;
use std::time::Instant;

use anyhow::{Error, Result};
use testbed::run_dir::RunDir;
use testbed::stack::seconds;
use testbed::{Chat, Release};

use crate::acts::Scene;
use crate::crowd::Crowd;
use crate::ground::{Ground, NAMESPACE, SYSTEM};
use crate::objects::Objects;
use crate::voice::{Unmet, Voice};

/// Of the controller's log, after a failure.
const LAST_LINES: i64 = 12;

/// What has happened so far.
pub struct Story<'a> {
    ground: &'a Ground,
    voice: &'a Voice,
    release: Option<Release>,
}

impl<'a> Story<'a> {
    pub fn new(ground: &'a Ground, voice: &'a Voice) -> Self {
        Self {
            ground,
            voice,
            release: None,
        }
    }

    /// Tells all of it.
    ///
    /// # Errors
    /// [`Unmet`] for the first thing that is not as it should be.
    pub async fn tell(&mut self) -> Result<()> {
        let (ground, voice) = (self.ground, self.voice);
        voice.title("Installation");
        voice.command(format_args!(
            "helm install persona-operator charts/persona-operator -n {SYSTEM} …"
        ));
        let begun = Instant::now();
        let release = Release::install(ground.cluster(), &ground.options).await?;
        voice.line(format_args!(
            "controller, gateway and queue are Ready, {} later",
            seconds(begun.elapsed())
        ));
        let client = ground.cluster().client().await?;
        let scene = Scene {
            ground,
            voice,
            chat: Chat::new(release.url(), release.key())?,
            objects: Objects::new(client.clone(), NAMESPACE),
            crowd: Crowd::follow(client, NAMESPACE),
        };
        self.release = Some(release);
        scene.first_reply().await?;
        scene.sixty_at_once().await?;
        scene.drain().await?;
        scene.eleventh().await?;
        scene.table().await
    }

    pub fn release(&self) -> Option<&Release> {
        self.release.as_ref()
    }

    pub fn into_release(self) -> Option<Release> {
        self.release
    }

    /// After a failure: the pods' logs go to the folder of logs, before the pods are gone, and the
    /// controller's last lines into the error.
    pub async fn with_logs(&self, mut error: Error) -> Error {
        let Some(release) = &self.release else {
            return error;
        };
        let cluster = self.ground.cluster();
        if let Some(unmet) = error.downcast_mut::<Unmet>() {
            let log = release.log(cluster, "controller", LAST_LINES).await;
            unmet.log = log.unwrap_or_else(|error| format!("{error:#}"));
        }
        for component in ["controller", "gateway"] {
            let saved = async {
                let log = release
                    .log(self.ground.cluster(), component, 20_000)
                    .await?;
                let file = RunDir::current()?.logs().join(format!("{component}.log"));
                anyhow::Ok(fs::write(file, log)?)
            };
            if let Err(error) = saved.await {
                self.voice
                    .more(format_args!("no log of the {component}: {error:#}"));
            }
        }
        error
    }
}
