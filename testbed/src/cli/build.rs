//! `cargo testbed build`

use std::fmt::Display;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use testbed::stack::seconds;
use testbed::{Binary, image, packages, progress};

#[derive(Debug, Args)]
pub struct Build {}

impl Build {
    pub async fn run(&self) -> Result<()> {
        let start = Instant::now();
        let root = nix::unistd::geteuid().is_root();
        // Not being root must not keep the rest from being built: told at the end.
        let installed = packages::ensure(&packages::all(root)).await;
        let steps = Binary::ALL.len() + 2;
        for (index, binary) in Binary::ALL.into_iter().enumerate() {
            let begun = Instant::now();
            let path = binary.resolve().await?;
            done(index + 1, steps, binary.name(), &path, begun);
        }
        let begun = Instant::now();
        let weights = testbed::weights().await?;
        done(steps - 1, steps, "language model", &weights, begun);
        let begun = Instant::now();
        let operator =
            tokio::task::spawn_blocking(|| image::static_binary("persona-operator")).await??;
        done(steps, steps, "persona-operator", &operator, begun);
        installed.context("all is built, but Debian packages are missing")?;
        progress::line(format_args!("all is there, {}", seconds(start.elapsed())));
        Ok(())
    }
}

fn done(step: usize, steps: usize, what: impl Display, path: &Path, begun: Instant) {
    let time = seconds(begun.elapsed());
    progress::line(format_args!(
        "[{step}/{steps}] {what}, {time}: {}",
        path.display()
    ));
}
