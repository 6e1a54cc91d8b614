//! Where one process keeps what its testbed writes: `<temp>/persona-testbed-<uid>/<name>/{logs,data}`.
//!
//! The owner holds a file lock for as long as it lives, so the next testbed can tell the folders of
//! dead owners from living ones: their data is removed at once, their logs are kept for a day.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

const LOG_RETENTION: Duration = Duration::from_secs(24 * 3600);
const KEPT_LOG_FOLDERS: usize = 20;
const OWNER_LOCK: &str = "owner.lock";

/// The run folder of this process. Its lock ends with the process, however that ends.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _owner: File,
}

static CURRENT: OnceLock<Result<RunDir, String>> = OnceLock::new();

impl RunDir {
    /// The folder of this process, made on first use and named after the executable and its pid.
    pub fn current() -> Result<&'static Self> {
        current(|| {
            let exe = std::env::current_exe()?;
            let stem = exe
                .file_stem()
                .map_or_else(|| "testbed".into(), |name| name.to_string_lossy());
            Ok(format!("{stem}-{}", std::process::id()))
        })
    }

    /// Gives this process a folder with a name of its own (see [`crate::registry`]). Fails when
    /// another living process has that name, or when this process has a folder already.
    pub fn claim(name: &str) -> Result<&'static Self> {
        let dir = current(|| Ok(name.to_owned()))?;
        if dir.path.file_name().is_none_or(|taken| taken != name) {
            bail!(
                "this process already uses the run folder {}",
                dir.path.display()
            );
        }
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One log file a component; what a failed start points at.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Removes the folder, logs and all: the last thing that an owner does whose work went well.
    pub fn remove(&self) -> Result<()> {
        let _guard = lock_root(&root())?;
        fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }

    /// A fresh data folder, removed when the returned value is dropped.
    pub fn data(&self, name: &str) -> Result<DataDir> {
        let path = self.path.join("data").join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(DataDir { path })
    }
}

fn current(name: impl FnOnce() -> Result<String>) -> Result<&'static RunDir> {
    CURRENT
        .get_or_init(|| {
            name()
                .and_then(|name| create(&root(), &name))
                .map_err(|error| format!("{error:#}"))
        })
        .as_ref()
        .map_err(|error| anyhow::anyhow!(error.clone()))
}

/// The folder that holds the run folders of this user.
pub fn root() -> PathBuf {
    std::env::temp_dir().join(format!("persona-testbed-{}", nix::unistd::getuid()))
}

/// A folder that all testbeds of this user share.
pub fn shared_folder(name: &str) -> Result<PathBuf> {
    make_private(&root())?;
    let folder = root().join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Whether a living process owns the run folder `dir`.
pub fn is_owned(dir: &Path) -> bool {
    match File::open(dir.join(OWNER_LOCK)) {
        Ok(lock) => lock.try_lock_shared().is_err(),
        Err(_) => false,
    }
}

/// Removes the run folder `dir` unless a living process owns it. Answers whether it did.
pub fn remove_dead(dir: &Path) -> Result<bool> {
    let _guard = lock_root(&root())?;
    if is_owned(dir) || !dir.exists() {
        return Ok(false);
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(true)
}

/// Under this lock nobody can mistake a folder whose owner is not locked yet for a dead one.
fn lock_root(root: &Path) -> Result<File> {
    let lock = lock_file(&root.join(".lock"))?;
    lock.lock()
        .context("cannot lock the testbed's temp folder")?;
    Ok(lock)
}

/// A data folder of one cluster or Redis; goes with its owner.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn create(root: &Path, name: &str) -> Result<RunDir> {
    let path = root.join(name);
    make_private(root)?;
    let _guard = lock_root(root)?;
    sweep(root);
    if is_owned(&path) {
        bail!(
            "the testbed {name:?} is running already ({})",
            path.display()
        );
    }
    remove(&path);
    fs::create_dir_all(path.join("logs"))
        .with_context(|| format!("cannot create {}", path.display()))?;
    let owner = lock_file(&path.join(OWNER_LOCK))?;
    owner.lock().context("cannot lock the run folder")?;
    Ok(RunDir {
        path,
        _owner: owner,
    })
}

fn make_private(root: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .with_context(|| format!("cannot create {}", root.display()))?;
    if fs::symlink_metadata(root)?.uid() != nix::unistd::getuid().as_raw() {
        bail!(
            "{} belongs to another user; set TMPDIR to a folder of your own",
            root.display()
        );
    }
    Ok(())
}

/// Opens (and creates) a file that is only there to be locked.
pub fn lock_file(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Removes what dead testbeds left: data at once, logs when old or many.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    let mut dead: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.join(OWNER_LOCK).is_file() && !is_owned(path))
        .map(|path| (modified(&path), path))
        .collect();
    dead.sort_by(|a, b| b.cmp(a));
    for (rank, (at, path)) in dead.iter().enumerate() {
        let old = at.elapsed().is_ok_and(|age| age > LOG_RETENTION);
        if old || rank >= KEPT_LOG_FOLDERS {
            remove(path);
        } else {
            remove(&path.join("data"));
        }
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path.join(OWNER_LOCK))
        .and_then(|meta| meta.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Left-over files cost only disk space, and the next sweep tries again: worth a line, not a failure.
fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            crate::progress::line(format_args!("cannot remove {}: {error}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_dead_testbed_is_removed_and_its_logs_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let dead = create(root.path(), "dead").unwrap();
        fs::create_dir_all(dead.path().join("data/etcd")).unwrap();
        fs::write(dead.logs().join("etcd.log"), "last words").unwrap();
        let path = dead.path().to_owned();
        drop(dead);

        let alive = create(root.path(), "alive").unwrap();
        assert!(!path.join("data").exists());
        assert!(path.join("logs/etcd.log").exists());
        assert!(is_owned(alive.path()) && !is_owned(&path));
    }

    #[test]
    fn a_name_in_use_cannot_be_claimed_twice() {
        let root = tempfile::tempdir().unwrap();
        let first = create(root.path(), "mine").unwrap();
        let error = create(root.path(), "mine").unwrap_err();
        assert!(error.to_string().contains("running already"), "{error}");
        drop(first);
        create(root.path(), "mine").unwrap();
    }
}
