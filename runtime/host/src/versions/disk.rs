//! Files that several processes share and that a kill leaves whole: written beside and renamed, under a lock.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{Builder, NamedTempFile};

/// How the names of files begin that are being written.
const UNFINISHED: &str = ".unfinished-";
/// After how long a file that was never finished is taken for left behind.
pub(crate) const UNFINISHED_AGE: Duration = Duration::from_hours(1);
/// The file that whoever changes a folder has locked. It is never removed, else two could hold a lock each.
const LOCK: &str = ".lock";

/// Whether files can be made in a folder.
pub(super) fn probe(folder: &Path) -> io::Result<()> {
    unfinished(folder).map(drop)
}

/// Waits until nobody else changes the folder. The lock ends when it is dropped, and with its process.
///
/// Where the file system has no locks, one is done without: files still appear whole.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    match lock.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(lock),
    }
}

/// The bytes of a file; nothing where there is none.
pub(super) fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file by another one that holds `bytes`, so that nobody ever sees anything between, unless the machine loses
/// its power: for files of which that shows.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    written(file, bytes)?.persist(file)?;
    Ok(())
}

/// As [`replace`]. It is on the disk when this returns.
pub(super) fn replace_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    finish(written(file, bytes)?, file)
}

/// A file beside `file` that holds `bytes`.
fn written(file: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut unfinished = unfinished(file.parent().unwrap_or(Path::new(".")))?;
    unfinished.write_all(bytes)?;
    Ok(unfinished)
}

/// Puts a file that was written in its place. It is on the disk when this returns.
pub(crate) fn finish(unfinished: NamedTempFile, file: &Path) -> io::Result<()> {
    unfinished.as_file().sync_all()?;
    unfinished.persist(file)?;
    // The new name is on the disk when the folder is.
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a file the newest one.
pub(super) fn touch(file: &Path) -> io::Result<()> {
    File::options().append(true).open(file)?.set_modified(SystemTime::now())
}

/// Removes a file, unless somebody else has.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes files that were being written when their process died, at least `age` ago.
pub(crate) fn remove_unfinished(folder: &Path, age: Duration) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed >= age));
        if is_old && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// A file to be written and renamed. Others may read it, like the plugins it is made from.
pub(crate) fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    Builder::new().prefix(UNFINISHED).permissions(Permissions::from_mode(0o644)).tempfile_in(folder)
}
