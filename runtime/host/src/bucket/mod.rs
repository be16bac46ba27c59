//! `runtime.plugins = "nats:<bucket>"`: components, drop-in manifests and cases from a bucket of NATS' object store.
//!
//! A [`Mirror`] keeps a folder that is a copy of the bucket. What is in the folder is read, watched, checked and run like any
//! other folder of plugins: nothing here decides what runs. Several processes may share the folder, and each may be killed at
//! any instruction.
//!
//! The mirror has a connection of its own, since it must be read before there is anything to run, and lives on while the
//! instance connects anew.

mod folder;
mod keep;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::broker::nats::Nats;
use crate::broker::nats::ask::AskError;
use crate::broker::nats::connect::{self, ConnectError, Target};
use crate::broker::nats::objects::{self, Object, Odd, ReadError, State};
use crate::status::Status;
use crate::troubles::{Effect, Troubles};
use folder::Files;

pub use folder::is_complete;
pub use keep::keep;
pub use names::COMPONENT_BYTES_MAX;

/// What is in trouble while the bucket cannot be read, or something in it.
const TROUBLE: &str = "plugins";
/// How long to wait before a server is asked again at the start.
const START_DELAY: Duration = Duration::from_secs(1);
/// How often the bucket is listed anew where an object is replaced while it is read.
const LISTS_MAX: usize = 5;
/// After how many failures in a row the connection is given up for another one.
const FAILURES_MAX: u32 = 3;
/// The most odd objects that are remembered to be warned of once.
const WARNED_MAX: usize = 1_000;

/// A bucket, and the folder that is its copy.
#[derive(Debug)]
pub struct Mirror {
    /// The bucket.
    pub bucket: String,
    folder: PathBuf,
    target: Target,
    known: Mutex<KnownState>,
    /// How far the copy is: the sequence of the bucket's stream.
    sequence: AtomicU64,
    /// How many connections were made.
    connections: AtomicU64,
}

#[derive(Debug, Default)]
struct KnownState {
    nats: Option<Nats>,
    failures: u32,
    /// What was in the bucket.
    listed: Option<(State, Vec<Result<Object, Odd>>)>,
    files: Files,
    warned: BTreeSet<String>,
}

/// Why the bucket was not copied.
#[derive(Debug, Error)]
pub enum SyncError {
    /// There is no connection.
    #[error("runtime.plugins: {0}")]
    Connect(#[from] ConnectError),
    /// The connection is lost.
    #[error("runtime.plugins: the connection to NATS is lost")]
    Lost,
    /// There is no such bucket.
    #[error(
        "runtime.plugins: bucket {0:?} does not exist; make it with the first component: tidemill deploy FILE.wasm \
         --handler NAME --create-bucket, or: nats object add {0}"
    )]
    Missing(String),
    /// The server does not tell what is in the bucket.
    #[error("runtime.plugins: {0}")]
    Ask(#[from] AskError),
    /// The copy cannot be written.
    #[error(
        "runtime.plugins: the bucket cannot be copied to {folder}: {source}; let this user write there, or name another \
         folder with runtime.versions",
        folder = folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

impl SyncError {
    /// Whether it is worth while to wait.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            SyncError::Connect(ConnectError::Unreachable { .. })
                | SyncError::Lost
                | SyncError::Ask(AskError::NoAnswer { .. })
        )
    }
}

/// What the copy is after it was brought up to date.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Synced {
    /// What in the bucket could not be taken, so that what was there before it is still in the copy.
    pub problems: Vec<String>,
}

/// Where changes of the bucket are heard.
struct Changes {
    heard: Subscriber,
    /// The number of the connection.
    connection: u64,
}

/// What is to be in the copy.
struct Wanted<'a> {
    objects: BTreeMap<PathBuf, &'a Object>,
    /// What cannot be taken, and what stays as it is for that.
    problems: Vec<String>,
    left_alone: BTreeSet<PathBuf>,
}

impl Mirror {
    /// A copy of a bucket in `folder`, which need not be there. Nothing is done yet.
    pub fn new(bucket: String, folder: PathBuf, target: Target) -> Mirror {
        Mirror {
            bucket,
            folder,
            target,
            known: Mutex::default(),
            sequence: AtomicU64::default(),
            connections: AtomicU64::default(),
        }
    }

    /// How far the copy is: the last sequence of the bucket's stream that it is true to; 0 before it was ever read.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// Brings the copy up to date before anything is read from it. A server that does not answer is waited for, unless
    /// there is an earlier copy, which is used then with a warning.
    ///
    /// # Errors
    /// What waiting cannot cure.
    pub async fn open(&self) -> Result<(), SyncError> {
        let troubles = Troubles::default();
        loop {
            match self.sync().await {
                Ok(synced) => {
                    synced.problems.iter().for_each(|problem| tracing::error!("{problem}"));
                    troubles.end(TROUBLE);
                    return Ok(());
                }
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) if is_complete(&self.folder) => {
                    tracing::warn!("{error}; starting with what was copied before to {}", self.folder.display());
                    return Ok(());
                }
                Err(error) => {
                    let why =
                        format!("{error}; nothing was copied before to start with, so it is tried until it works");
                    troubles.begin(TROUBLE, Effect::Intake, &why);
                    sleep(START_DELAY).await;
                }
            }
        }
    }

    /// As [`Mirror::sync`], where it is a trouble if that fails, and what runs goes on.
    pub async fn sync_and_tell(&self, status: &Status) {
        let why = match self.sync().await {
            Ok(Synced { problems }) if problems.is_empty() => return status.troubles.end(TROUBLE),
            Ok(Synced { problems }) => problems.join("; "),
            Err(error) => error.to_string(),
        };
        status.troubles.begin(TROUBLE, Effect::None, &format!("{why}; what is here goes on as it is"));
    }

    /// Brings the copy up to date once.
    ///
    /// # Errors
    /// Why it is as it was. Single objects that cannot be taken are no error but a problem of the result.
    pub async fn sync(&self) -> Result<Synced, SyncError> {
        let mut known = self.known.lock().await;
        let done = self.sync_known(&mut known).await;
        match &done {
            Ok(_) => known.failures = 0,
            // A connection that is lost comes back by itself.
            Err(SyncError::Lost | SyncError::Missing(_) | SyncError::Folder { .. }) => {}
            Err(_) => {
                known.failures += 1;
                // The client may have ended for good.
                if known.failures >= FAILURES_MAX {
                    (known.nats, known.failures) = (None, 0);
                }
            }
        }
        done
    }

    async fn sync_known(&self, known: &mut KnownState) -> Result<Synced, SyncError> {
        let KnownState { nats, listed, files, warned, .. } = known;
        // One that the client library has ended does not come back by itself.
        *nats = nats.take().filter(|nats| !nats.link.lost.is_cancelled());
        let nats = match nats {
            Some(nats) if !nats.link.is_up() => return Err(SyncError::Lost),
            Some(nats) => nats,
            None => nats.insert(self.connect().await?),
        };
        // Whoever holds the lock has the newest list, so that nothing newer is ever overwritten.
        let _lock = self.blocking(folder::open).await?;
        let mut left = LISTS_MAX;
        loop {
            left -= 1;
            let state = objects::state(nats, &self.bucket).await?;
            let state = state.ok_or_else(|| SyncError::Missing(self.bucket.clone()))?;
            if listed.as_ref().is_none_or(|(before, _)| *before != state) {
                *listed = Some((state.clone(), objects::list(nats, &self.bucket).await?));
            }
            let all = listed.as_ref().map(|(_, all)| all.as_slice()).unwrap_or_default();
            let before = std::mem::take(files);
            *files = self.blocking(move |folder| folder::look(folder, &before)).await?;
            let Some(synced) = self.copy(nats, wanted(all, warned), files, left == 0).await? else {
                *listed = None;
                continue;
            };
            self.blocking(folder::set_complete).await?;
            self.sequence.store(state.sequence, Ordering::Relaxed);
            return Ok(synced);
        }
    }

    /// Changes the folder to what is wanted; nothing where an object was replaced meanwhile, unless this is the `last`
    /// attempt.
    async fn copy(
        &self,
        nats: &Nats,
        wanted: Wanted<'_>,
        files: &mut Files,
        last: bool,
    ) -> Result<Option<Synced>, SyncError> {
        let Wanted { objects, mut problems, left_alone } = wanted;
        let mut written = Vec::new();
        for (path, object) in &objects {
            if files.get(path).is_some_and(|file| file.digest == object.digest) {
                continue;
            }
            match self.fetch(nats, object).await {
                Ok(file) => written.push((path.clone(), file)),
                Err(ReadError::Gone) if !last => return Ok(None),
                Err(ReadError::Write(source)) => return Err(self.unwritable(source)),
                Err(ReadError::Ask(error)) => return Err(error.into()),
                Err(error @ (ReadError::Gone | ReadError::Wrong)) => {
                    problems.push(format!("object {:?} of bucket {:?}: {error}", object.name, self.bucket));
                }
            }
        }
        let is_surplus = |path: &&PathBuf| !objects.contains_key(*path) && !left_alone.contains(*path);
        let removed: Vec<_> = files.keys().filter(is_surplus).cloned().collect();
        if !written.is_empty() || !removed.is_empty() {
            let new: Vec<_> = written.iter().map(|(path, _)| path.display().to_string()).collect();
            let gone: Vec<_> = removed.iter().map(|path| path.display().to_string()).collect();
            self.blocking(move |folder| folder::change(folder, written, &removed)).await?;
            let bucket = &self.bucket;
            tracing::info!(bucket, taken = new.join(", "), removed = gone.join(", "), "the bucket has changed");
        }
        Ok(Some(Synced { problems }))
    }

    async fn fetch(&self, nats: &Nats, object: &Object) -> Result<NamedTempFile, ReadError> {
        let mut file = folder::unfinished(&self.folder)?;
        objects::read(nats, &self.bucket, object, |chunk| file.write_all(chunk)).await?;
        Ok(file)
    }

    async fn connect(&self) -> Result<Nats, SyncError> {
        let (client, link) = connect::connect(&self.target, "tidemill plugins", Arc::default()).await?;
        // The instance's own connection tells of a loss.
        link.expect_end();
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Nats::new(client, link))
    }

    /// What tells that something in the bucket has changed; nothing where there is no connection.
    async fn changes(&self) -> Option<Changes> {
        let known = self.known.lock().await;
        let nats = known.nats.as_ref().filter(|nats| nats.link.is_up())?;
        let heard = nats.client.subscribe(objects::changes_of(&self.bucket)).await.ok()?;
        Some(Changes { heard, connection: self.connections.load(Ordering::Relaxed) })
    }

    /// Whether they are heard over the connection that is used now.
    fn is_current(&self, changes: &Changes) -> bool {
        changes.connection == self.connections.load(Ordering::Relaxed)
    }

    /// Does what waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SyncError> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: io::Error) -> SyncError {
        SyncError::Folder { folder: self.folder.clone(), source }
    }
}

/// What of a bucket is to be in the copy. What is odd is warned of once.
fn wanted<'a>(all: &'a [Result<Object, Odd>], warned: &mut BTreeSet<String>) -> Wanted<'a> {
    let mut wanted = Wanted { objects: BTreeMap::new(), problems: Vec::new(), left_alone: BTreeSet::new() };
    for one in all {
        let name = one.as_ref().map_or_else(|odd| &odd.name, |object| &object.name);
        let Some(place) = names::place(name) else {
            if warned.len() < WARNED_MAX && warned.insert(name.clone()) {
                tracing::warn!(
                    "object {name:?} is ignored: a bucket of components holds NAME.wasm, NAME.toml and NAME.cases/CASE.toml"
                );
            }
            continue;
        };
        let why = match one {
            Ok(object) if object.bytes <= place.bytes_max => {
                wanted.objects.insert(place.path, object);
                continue;
            }
            Ok(object) => format!("it has {} bytes, and {} is the most", object.bytes, place.bytes_max),
            Err(odd) => odd.why.clone(),
        };
        wanted.problems.push(format!("object {name:?} cannot be taken: {why}"));
        wanted.left_alone.insert(place.path);
    }
    wanted
}
