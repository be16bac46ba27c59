//! Reading secrets from where the manifest says they are. Values are never logged.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tidemill_policy::manifest::SecretRef;

/// Why a secret cannot be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The environment variable is not set, or is no Unicode.
    #[error("secret env:{0}: the environment variable is not set")]
    Unset(String),
    /// The file cannot be read.
    #[error("secret file {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads a secret; a file's path is relative to `base`, and one line break at its end is dropped.
///
/// # Errors
/// Where the variable is not set or the file cannot be read.
pub fn read(secret: &SecretRef, base: &Path) -> Result<String, SecretError> {
    match secret {
        SecretRef::Env(name) => std::env::var(name).map_err(|_| SecretError::Unset(name.clone())),
        SecretRef::File(path) => {
            let path = base.join(path);
            let text = std::fs::read_to_string(&path).map_err(|source| SecretError::File { path, source })?;
            let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
            Ok(text.to_owned())
        }
    }
}
