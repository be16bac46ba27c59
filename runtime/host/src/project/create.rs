//! Writing a new project.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::kits::Kit;
use super::name::Name;

/// Why there is no new project.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The place is taken.
    #[error("{path} is there already and not empty; choose another name, or remove it", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written, or a folder not made or read.
    #[error("cannot write {path}: {source}", path = path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes a new project to a folder that does not exist or is empty, and returns its files, relative to the folder.
///
/// # Errors
///
/// If the folder is not empty, or something cannot be written. What was written until then stays.
pub fn create(kit: &Kit, name: &Name, folder: &Path) -> Result<Vec<String>, CreateError> {
    let unwritable = |path: &Path, source| CreateError::Unwritable { path: path.to_owned(), source };
    match fs::read_dir(folder).map(Iterator::count) {
        Ok(1..) => return Err(CreateError::NotEmpty { path: folder.to_owned() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(folder, error)),
        _ => {}
    }
    let files = kit.files(name);
    for (path, content) in &files {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| unwritable(parent, error))?;
        fs::write(&file, content).map_err(|error| unwritable(&file, error))?;
    }
    Ok(files.into_keys().collect())
}
