//! `cargo testbed down`

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use testbed::registry::{self, Entry};
use testbed::{progress, stack};

use super::Name;

/// Stopping takes some seconds; a machine under load may take longer.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    name: Name,
    /// All testbeds of this user, and what is left of those that were killed.
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

impl Down {
    pub async fn run(&self) -> Result<()> {
        let entries = if self.all {
            registry::list()?
        } else {
            registry::find(&self.name.name)?.into_iter().collect()
        };
        if entries.is_empty() {
            progress::line(format_args!("there is nothing to stop"));
        }
        for entry in &entries {
            stop(entry).await?;
        }
        Ok(())
    }
}

async fn stop(entry: &Entry) -> Result<()> {
    let start = Instant::now();
    let was_running = entry.is_running();
    entry.stop(GRACE).await?;
    let what = if was_running {
        format!("stopped, {}", stack::seconds(start.elapsed()))
    } else {
        "was killed before; what it left is removed".to_owned()
    };
    progress::line(format_args!("{}: {what}", entry.name));
    Ok(())
}
