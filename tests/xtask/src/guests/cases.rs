//! The guests of the conformance cases (`tests/guests/cases-<language>`).

use anyhow::Result;

use super::project::Source;
use super::{entries, name};
use crate::paths;

const PREFIX: &str = "cases-";

/// Finds them, but for those that are built like any other guest.
///
/// # Errors
///
/// If the folder of the guests cannot be listed.
pub(super) fn sources() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in entries(&paths::root().join("tests/guests"))? {
        let is_built = ["Cargo.toml", "handler.js"].iter().any(|file| folder.join(file).is_file());
        if let Some(language) = name(&folder).strip_prefix(PREFIX).filter(|_| !is_built) {
            sources.push(Source { language: language.to_owned(), folder });
        }
    }
    Ok(sources)
}
