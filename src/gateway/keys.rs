//! Keeps the API keys as their files are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::auth::Keys;

/// How often the folder is looked at. A mounted Secret itself comes with up to a minute's delay.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the keys now, and again whenever a file changes. A folder that cannot be read means no keys.
pub async fn watch(folder: PathBuf) -> (watch::Receiver<Keys>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Keys::default());
    let mut seen = look(&folder, None, &sender).await;
    let looking = tokio::spawn(async move {
        loop {
            sleep(LOOK_EVERY).await;
            seen = look(&folder, seen, &sender).await;
        }
    });
    (receiver, looking)
}

/// What tells one state of the folder from another: name, time and length of each file.
type Traits = Vec<(String, SystemTime, u64)>;
type Seen = Option<Result<Traits, io::ErrorKind>>;

async fn look(folder: &Path, seen: Seen, keys: &watch::Sender<Keys>) -> Seen {
    let path = folder.to_owned();
    let read = spawn_blocking(move || {
        let now = Some(traits(&path).map_err(|e| e.kind()));
        (now != seen).then(|| (now, Keys::read(&path))).ok_or(seen)
    });
    let (now, read) = match read.await {
        Ok(Ok(changed)) => changed,
        Ok(Err(same)) => return same,
        Err(error) => {
            tracing::error!(%error, "looking for API keys failed");
            return None;
        }
    };
    match read {
        Ok((read, faults)) => {
            for (name, error) in faults {
                tracing::error!(principal = name, %error, "an API key is left out");
            }
            tracing::info!(keys = read.len(), "API keys read");
            keys.send_replace(read);
        }
        Err(error) => {
            let folder = folder.display();
            tracing::error!(%folder, %error, "no API keys: nobody can ask");
            keys.send_replace(Keys::default());
        }
    }
    now
}

fn traits(folder: &Path) -> io::Result<Traits> {
    let mut traits = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') {
            // Follows links: a Secret's files are links into the version that is current.
            let file = fs::metadata(entry.path())?;
            traits.push((name, file.modified()?, file.len()));
        }
    }
    traits.sort();
    Ok(traits)
}
