//! The folder of the copy: what is in it, and changing it so that nobody ever sees a file that is not whole.
//!
//! Everything here blocks on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::names;
use crate::versions::disk;

/// The file that says that the folder was a copy of all of the bucket once.
const COMPLETE: &str = ".complete";

/// What was found in the folder: the digest of each file, by its path there.
pub(super) type Files = BTreeMap<PathBuf, Known>;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// SHA-256, in hexadecimal.
    pub(super) digest: String,
    stamp: Stamp,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// Whether a folder was a copy of all of its bucket once, so that it can be run from without the server.
pub fn is_complete(folder: &Path) -> bool {
    folder.join(COMPLETE).is_file()
}

/// Notes that the folder is a copy of all of the bucket.
pub(super) fn set_complete(folder: &Path) -> io::Result<()> {
    if is_complete(folder) { Ok(()) } else { File::create(folder.join(COMPLETE)).map(drop) }
}

/// Makes the folder, and locks it until the result is dropped.
pub(super) fn open(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let lock = disk::lock(folder)?;
    disk::remove_unfinished(folder, disk::UNFINISHED_AGE)?;
    Ok(lock)
}

/// The files that are there, read only where they are not known as they are.
pub(super) fn look(folder: &Path, known: &Files) -> io::Result<Files> {
    let mut found = Files::new();
    for name in entries(folder)? {
        if Path::new(&name).extension().is_some_and(|end| end == "cases") {
            let cases = folder.join(&name);
            let inside = if cases.is_dir() { entries(&cases)? } else { Vec::new() };
            for case in inside {
                note(folder, &format!("{name}/{case}"), known, &mut found)?;
            }
        } else {
            note(folder, &name, known, &mut found)?;
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

fn note(folder: &Path, name: &str, known: &Files, found: &mut Files) -> io::Result<()> {
    let Some(place) = names::place(name) else { return Ok(()) };
    let file = folder.join(&place.path);
    let Some(stamp) = stamp(&file)? else { return Ok(()) };
    let is_known = known.get(&place.path).filter(|known| known.stamp == stamp);
    let digest = match is_known {
        Some(known) => known.digest.clone(),
        None => digest(&file)?,
    };
    found.insert(place.path, Known { digest, stamp });
    Ok(())
}

fn stamp(file: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(file) {
        Ok(data) if data.is_file() => {
            Ok(Some(Stamp { bytes: data.len(), modified: data.modified().ok(), inode: data.ino() }))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

fn digest(file: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    Ok(HEXLOWER.encode(&digest.finalize()))
}

/// A file to be written, which is to be in the folder.
pub(super) fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    disk::unfinished(folder)
}

/// Puts files that were written in their places, and removes others.
pub(super) fn change(folder: &Path, written: Vec<(PathBuf, NamedTempFile)>, removed: &[PathBuf]) -> io::Result<()> {
    for (path, file) in written {
        let place = folder.join(path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        disk::finish(file, &place)?;
    }
    for path in removed {
        disk::remove(&folder.join(path))?;
        if let Some(cases) = path.parent().filter(|cases| !cases.as_os_str().is_empty()) {
            // Where there are more cases, it stays.
            let _ = fs::remove_dir(folder.join(cases));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, content: &str) -> NamedTempFile {
        let file = unfinished(folder).expect("a file");
        fs::write(file.path(), content).expect("written");
        file
    }

    #[test]
    fn files_come_and_go_and_others_are_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        let lock = open(folder).expect("a lock");
        for other in ["notes.txt", ".hidden.wasm"] {
            fs::write(folder.join(other), "other").expect("written");
        }
        let paths = ["a.wasm", "a.cases/one.toml", "a.cases/two.toml"].map(PathBuf::from);
        let files = paths.iter().map(|path| (path.clone(), written(folder, "one"))).collect();
        change(folder, files, &[]).expect("changed");
        let found = look(folder, &Files::new()).expect("read");
        assert_eq!(found.keys().collect::<Vec<_>>(), [&paths[1], &paths[2], &paths[0]]);
        assert!(found.values().all(|known| known.digest == crate::invoker::wasm::digest(b"one")));

        change(folder, vec![(paths[0].clone(), written(folder, "two"))], &paths[1..2]).expect("changed");
        assert!(folder.join("a.cases").is_dir());
        change(folder, Vec::new(), &paths[1..]).expect("what is gone is no error");
        let found = look(folder, &found).expect("read");
        assert_eq!(found[&paths[0]].digest, crate::invoker::wasm::digest(b"two"));
        assert_eq!((found.len(), folder.join("a.cases").exists()), (1, false));
        assert!(folder.join("notes.txt").is_file() && folder.join(".hidden.wasm").is_file());
        assert!(!is_complete(folder));
        set_complete(folder).expect("noted");
        assert!(is_complete(folder));
        drop(lock);
    }
}
