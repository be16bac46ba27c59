//! Compiled code is kept, and trusted only where nobody else can have put it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::WasmHandler;

use crate::setup::{engine, entry, event, guest, output};

/// Loads the guest with a new engine, runs it once, and returns the files in the cache.
async fn load_and_list(cache: &Path) -> Vec<PathBuf> {
    let engine = engine(4, Some(cache.to_owned()));
    let handler = WasmHandler::load(&engine, &guest("unruly"), &entry(), BTreeMap::new()).unwrap();
    assert_eq!(output(&handler.invoke(event("echo").into()).await), "echo");
    let entries = fs::read_dir(cache).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("deep").join("cache");
    (folder, cache)
}

fn inode(file: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(file).unwrap())
}

#[tokio::test]
async fn compiled_code_is_kept_for_the_next_start() {
    let (_folder, cache) = folder();
    let files = load_and_list(&cache).await;
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    assert_eq!(mode(file), 0o600);
    assert_eq!(file.extension().unwrap(), "cwasm");
    let written = inode(file);
    assert_eq!(load_and_list(&cache).await, files);
    assert_eq!(inode(file), written, "it was read, not written again");
}

#[tokio::test]
async fn damaged_files_are_made_again() {
    let (_folder, cache) = folder();
    let files = load_and_list(&cache).await;
    let whole = fs::read(&files[0]).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&[][..], b"short", &whole[..whole.len() / 2], &flipped] {
        fs::write(&files[0], damaged).unwrap();
        assert_eq!(load_and_list(&cache).await, files);
        assert_eq!(fs::read(&files[0]).unwrap().len(), whole.len());
    }
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_not_used() {
    for mode in [0o777, 0o770, 0o702] {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        assert!(load_and_list(folder.path()).await.is_empty(), "{mode:o}");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(load_and_list(&file.join("cache")).await.is_empty());
}
