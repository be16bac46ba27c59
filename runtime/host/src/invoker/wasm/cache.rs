//! Compiled components on disk, so that a start does not compile what an earlier one has compiled.
//!
//! Compiled code runs as it is: a file in the cache is as powerful as the program itself. So the folder
//! must belong to the user alone, and each file carries a checksum against what can go wrong by accident.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::inspect::digest;

/// The bytes of the checksum at the end of each file.
const CHECKSUM_BYTES: usize = 32;

/// A folder of compiled components.
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens the folder, and creates it if it is missing. If others could write to it, or it cannot be
    /// used, that is logged, and there is no cache.
    pub(super) fn open(dir: PathBuf) -> Option<Cache> {
        match prepare(&dir) {
            Ok(()) => Some(Cache { dir }),
            Err(error) => {
                tracing::warn!(
                    dir = %dir.display(), %error,
                    "the compile cache is not used; every start compiles all components"
                );
                None
            }
        }
    }

    /// The component, from the cache if its compiled code is there; else compiled, and put there.
    pub(super) fn component(&self, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
        let file = self.file(engine, bytes);
        if let Some(component) = read(engine, &file) {
            return Ok(component);
        }
        let component = Component::new(engine, bytes)?;
        if let Err(error) = component.serialize().map(|code| self.write(&file, &code)) {
            tracing::warn!(file = %file.display(), %error, "compiled code cannot be kept");
        }
        Ok(component)
    }

    /// The file for this component as compiled by this engine.
    fn file(&self, engine: &Engine, bytes: &[u8]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let (component, engine) = (digest(bytes), hasher.finish());
        self.dir.join(format!("{component}-{engine:016x}.cwasm"))
    }

    /// Writes beside the file and renames, so that no reader ever sees half of it.
    fn write(&self, file: &Path, code: &[u8]) {
        let written = NamedTempFile::new_in(&self.dir).and_then(|mut temporary| {
            temporary.write_all(code)?;
            temporary.write_all(&Sha256::digest(code))?;
            temporary.persist(file)?;
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!(file = %file.display(), %error, "compiled code cannot be kept");
        }
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let metadata = fs::metadata(dir)?;
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("other users can write to it; take that away with `chmod go-w`"));
    }
    let own_file = NamedTempFile::new_in(dir)?;
    if own_file.as_file().metadata()?.uid() != metadata.uid() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(())
}

/// The component, if the file is there, whole, and of this engine.
fn read(engine: &Engine, file: &Path) -> Option<Component> {
    let content = match fs::read(file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "compiled code cannot be read");
            return None;
        }
    };
    let is_whole = content
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(code, checksum)| Sha256::digest(code)[..] == checksum[..]);
    if !is_whole {
        tracing::warn!(file = %file.display(), "compiled code is damaged and is made again");
        return None;
    }
    drop(content);
    // SAFETY: the file was written by `Cache::write` with the output of this compiler: its folder can be
    // written to by this user only, its name says which component and engine it is for, and its checksum
    // is right. It is never changed in place, only replaced.
    #[allow(unsafe_code, reason = "there is no safe way to load compiled code")]
    let component = unsafe { Component::deserialize_file(engine, file) };
    component
        .inspect_err(|error| {
            tracing::warn!(file = %file.display(), %error, "compiled code is of no use and is made again");
        })
        .ok()
}
