//! The last versions of each handler's component, and what became of them: what going back needs, also after a restart.
//!
//! One folder for each handler: `<digest>.wasm` for each version, `state.json` (which version was kept, which one is pinned) and
//! `log.jsonl` (what happened, one JSON object per line). Several processes may use the folder at once, and each may be
//! killed at any instruction: files appear whole, by a rename, and whoever changes something holds the handler's lock,
//! which ends with its process. Nothing that is read is trusted: a component is taken only if it has its digest, which a
//! loss of power may have cost it (only the state is written to the disk at once), and what
//! cannot be read of state and log is as if it were not there.
//!
//! Everything here blocks on the disk: not to be called on a thread that runs events.

pub(crate) mod disk;
mod log;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use tidemill_policy::reload::start::Kept;

use crate::invoker::wasm::digest;

pub use log::{Entry, Outcome};

const STATE: &str = "state.json";
const LOG: &str = "log.jsonl";

/// Why versions cannot be kept or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error(
        "versions cannot be kept in {folder}: {source}; let this user write there, or name another folder with \
         runtime.versions",
        folder = folder.display()
    )]
    Folder {
        /// The folder of all versions, or that of a handler.
        folder: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The bytes of a version are not those that it is named by.
    #[error(
        "handler.{handler}: the component's digest is {found}, not {named}; has the file changed while it was read?"
    )]
    Digest {
        /// The handler.
        handler: String,
        /// What they were to be.
        named: String,
        /// What they are.
        found: String,
    },
}

/// The folder of versions.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// A version that is in the folder; what its file holds has not been looked at.
#[derive(Debug)]
struct Stored {
    digest: String,
    file: PathBuf,
    /// When it was put there last.
    since: SystemTime,
}

impl Store {
    /// Opens the folder, and makes it if it is missing.
    ///
    /// # Errors
    /// Where the folder cannot be made or written to. Handlers can be run without it; only going back cannot.
    pub fn open(folder: PathBuf) -> Result<Store, StoreError> {
        let versions = Store::at(folder);
        let probed = std::fs::create_dir_all(&versions.folder).and_then(|()| disk::probe(&versions.folder));
        probed.map_err(|source| StoreError::Folder { folder: versions.folder.clone(), source })?;
        Ok(versions)
    }

    /// The folder, to be read from; it need not be there.
    pub fn at(folder: PathBuf) -> Store {
        Store { folder }
    }

    /// Puts a version into the folder; one that is there already becomes the newest one.
    ///
    /// # Errors
    /// Where the bytes do not have the digest, or cannot be written.
    pub fn keep(&self, handler: &str, named: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let found = digest(bytes);
        if found != named {
            return Err(StoreError::Digest { handler: handler.to_owned(), named: named.to_owned(), found });
        }
        self.change(handler, |folder| {
            let file = folder.join(file_name(named));
            match disk::read(&file)? {
                Some(present) if present == bytes => disk::touch(&file),
                _ => disk::replace(&file, bytes),
            }
        })
    }

    /// The bytes of a version; nothing where it is not in the folder, or its file is damaged.
    ///
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn bytes(&self, handler: &str, named: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if !is_digest(named) {
            return Ok(None);
        }
        let folder = self.of(handler);
        let file = folder.join(file_name(named));
        let bytes = disk::read(&file).map_err(|source| StoreError::Folder { folder, source })?;
        match bytes {
            Some(bytes) if digest(&bytes) != named => {
                tracing::warn!(file = %file.display(), "a version of a component is damaged, and taken as missing");
                Ok(None)
            }
            bytes => Ok(bytes),
        }
    }

    /// The file of a version, whether it is there or not.
    pub fn path(&self, handler: &str, named: &str) -> PathBuf {
        self.of(handler).join(file_name(named))
    }

    /// The versions in the folder, the newest first.
    ///
    /// # Errors
    /// Where the folder is there and cannot be read.
    pub fn list(&self, handler: &str) -> Result<Vec<String>, StoreError> {
        let folder = self.of(handler);
        let mut stored = match stored_in(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            stored => stored.map_err(|source| StoreError::Folder { folder, source })?,
        };
        stored.sort_by(|a, b| (b.since, &b.digest).cmp(&(a.since, &a.digest)));
        Ok(stored.into_iter().map(|stored| stored.digest).collect())
    }

    /// The version that ran before `running` and did well, as far as is known; nothing where it is not in the folder.
    ///
    /// # Errors
    /// Where what happened cannot be read.
    pub fn before(&self, handler: &str, running: &str) -> Result<Option<String>, StoreError> {
        let history = self.history(handler)?;
        let mut seen = BTreeSet::new();
        let last_of_each = history.iter().rev().filter(|entry| seen.insert(&entry.digest));
        let did_well = last_of_each.filter(|entry| !matches!(entry.outcome, Outcome::WentBack | Outcome::Refused));
        let mut others = did_well.map(|entry| &entry.digest).filter(|digest| *digest != running);
        Ok(others.find(|digest| self.has(handler, digest)).cloned())
    }

    /// Whether a version is in the folder and sound.
    pub fn has(&self, handler: &str, named: &str) -> bool {
        self.bytes(handler, named).is_ok_and(|bytes| bytes.is_some())
    }

    /// What is remembered of a handler's versions; nothing where there is no file, or one that makes no sense.
    ///
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn state(&self, handler: &str) -> Result<Kept, StoreError> {
        let folder = self.of(handler);
        state_in(&folder).map_err(|source| StoreError::Folder { folder, source })
    }

    /// Replaces what is remembered of a handler's versions. It is on the disk when this returns.
    ///
    /// # Errors
    /// Where it cannot be written; what was remembered before stays then.
    pub fn set_state(&self, handler: &str, state: &Kept) -> Result<(), StoreError> {
        self.change(handler, |folder| {
            let mut text = serde_json::to_vec_pretty(state)?;
            text.push(b'\n');
            disk::replace_durably(&folder.join(STATE), &text)
        })
    }

    /// Adds to what happened to a handler's versions.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn record(&self, handler: &str, entry: &Entry) -> Result<(), StoreError> {
        self.change(handler, |folder| log::append(&folder.join(LOG), entry))
    }

    /// What happened to a handler's versions, the oldest first; of what was written last, the end may be missing.
    ///
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn history(&self, handler: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = self.of(handler);
        let text = disk::read(&folder.join(LOG)).map_err(|source| StoreError::Folder { folder, source })?;
        Ok(log::parse(&text.unwrap_or_default()))
    }

    /// Removes the oldest versions of a handler beyond `keep_versions`, and returns their digests. The version that
    /// was kept, both sides of a pin and `also_keep`, such as what is running, stay in any case, and count.
    ///
    /// What another process has on trial may go: it has it in memory, and the version it would go back to stays.
    ///
    /// # Errors
    /// Where the folder cannot be read or a file not be removed.
    pub fn tidy(&self, handler: &str, keep_versions: u32, also_keep: &[&str]) -> Result<Vec<String>, StoreError> {
        self.change(handler, |folder| {
            let state = state_in(folder)?;
            let pin = state.pin.iter().flat_map(|pin| [pin.digest.as_str(), pin.instead_of.as_str()]);
            let staying: BTreeSet<&str> =
                state.kept.as_deref().into_iter().chain(pin).chain(also_keep.iter().copied()).collect();
            let mut stored = stored_in(folder)?;
            stored.sort_by(|a, b| (a.since, &a.digest).cmp(&(b.since, &b.digest)));
            let excess = stored.len().saturating_sub(keep_versions as usize);
            let leaving = stored.into_iter().filter(|stored| !staying.contains(stored.digest.as_str())).take(excess);
            let mut removed = Vec::new();
            for Stored { digest, file, .. } in leaving {
                disk::remove(&file)?;
                removed.push(digest);
            }
            disk::remove_unfinished(folder, disk::UNFINISHED_AGE)?;
            Ok(removed)
        })
    }

    fn of(&self, handler: &str) -> PathBuf {
        self.folder.join(handler)
    }

    /// Changes the folder of a handler while nobody else does.
    fn change<T>(&self, handler: &str, change: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StoreError> {
        let folder = self.of(handler);
        let changed = std::fs::create_dir_all(&folder).and_then(|()| {
            let _lock = disk::lock(&folder)?;
            change(&folder)
        });
        changed.map_err(|source| StoreError::Folder { folder, source })
    }
}

fn state_in(folder: &Path) -> io::Result<Kept> {
    let file = folder.join(STATE);
    let Some(text) = disk::read(&file)? else { return Ok(Kept::default()) };
    Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "which version was kept cannot be told, and is taken as unknown");
        Kept::default()
    }))
}

fn stored_in(folder: &Path) -> io::Result<Vec<Stored>> {
    let mut stored = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wasm"));
        let Some(digest) = name.filter(|name| is_digest(name)).map(str::to_owned) else { continue };
        stored.push(Stored { digest, since: std::fs::metadata(&file)?.modified()?, file });
    }
    Ok(stored)
}

/// As much of a digest as people need to tell versions apart.
pub fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn file_name(digest: &str) -> String {
    format!("{digest}.wasm")
}

/// Whether a text is a digest, and so may be part of a path.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
