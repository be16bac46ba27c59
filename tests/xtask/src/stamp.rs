//! Remembers what a step was last done for, so that a repeat costs nothing.
//!
//! A stamp is a small file that holds a key: the versions and a digest of the files the step depends
//! on. It is written after the step has succeeded, never before.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// Says whether the step was last done for this key.
pub fn is_fresh(step: &str, key: &str) -> bool {
    fs::read_to_string(file(step)).is_ok_and(|found| found == key)
}

/// Notes that the step was done for this key.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(step: &str, key: &str) -> Result<()> {
    let file = file(step);
    let dir = paths::tools().join("stamps");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::write(&file, key).with_context(|| format!("cannot write {}", file.display()))
}

/// Makes a key of the names and contents of files and (recursively) folders.
///
/// # Errors
///
/// If one of them cannot be read.
pub fn key_of(inputs: &[PathBuf]) -> Result<String> {
    let mut files = BTreeSet::new();
    for input in inputs {
        collect(input, &mut files)?;
    }
    let mut hasher = DefaultHasher::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        file.hash(&mut hasher);
        content.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.insert(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn file(step: &str) -> PathBuf {
    paths::tools().join("stamps").join(step)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::key_of;

    #[test]
    fn a_key_changes_with_content_and_name() {
        let dir = std::env::temp_dir().join(format!("tidemill-stamp-{}", std::process::id()));
        fs::create_dir_all(dir.join("inner")).expect("a folder can be made");
        let key = || key_of(std::slice::from_ref(&dir)).expect("the folder can be read");
        let mut keys = vec![key()];
        for (name, content) in [("inner/a", "1"), ("inner/a", "2"), ("b", "2")] {
            fs::write(dir.join(name), content).expect("a file can be written");
            assert_eq!(key(), key());
            keys.push(key());
        }
        fs::remove_dir_all(&dir).expect("the folder can be removed");
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 4);
    }
}
