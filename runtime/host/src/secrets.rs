//! Reading secrets from where the manifest says they are. Values are never logged.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tidemill_policy::manifest::SecretRef;

/// The longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

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
    /// It is larger than any secret.
    #[error("secret {0} has more than {SECRET_BYTES_MAX} bytes, which is too long for a secret")]
    TooLong(SecretRef),
}

/// Reads a secret; a file's path is relative to `base`, and one line break at its end is dropped.
///
/// # Errors
/// Where the variable is not set or the file cannot be read.
pub fn read(secret: &SecretRef, base: &Path) -> Result<String, SecretError> {
    let value = match secret {
        SecretRef::Env(name) => std::env::var(name).map_err(|_| SecretError::Unset(name.clone()))?,
        SecretRef::File(path) => {
            let path = base.join(path);
            let text = std::fs::read_to_string(&path).map_err(|source| SecretError::File { path, source })?;
            let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
            text.to_owned()
        }
    };
    if value.len() > SECRET_BYTES_MAX { Err(SecretError::TooLong(secret.clone())) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_last_line_break_and_bounded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = |text: &str| {
            std::fs::write(folder.path().join("key"), text).expect("written");
            read(&SecretRef::File("key".into()), folder.path()).map_err(|error| error.to_string())
        };
        assert_eq!(secret("a b\r\n"), Ok("a b".to_owned()));
        assert_eq!(secret(&"x".repeat(SECRET_BYTES_MAX)).map(|value| value.len()), Ok(SECRET_BYTES_MAX));
        let said = secret(&"x".repeat(SECRET_BYTES_MAX + 1)).expect_err("too long");
        assert!(said.contains("secret file:key has more than 65536 bytes") && !said.contains("xxx"), "{said}");
    }
}
