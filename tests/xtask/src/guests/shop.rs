//! The handlers of the shop (`plugins/shop`), one in each language. The one in Rust is built and tested like any other
//! Rust guest.

use std::path::Path;

use anyhow::Result;

use super::project::Source;
use super::{entries, name};
use crate::{paths, templates};

/// The file that holds the handler, and its language as `tidemill new` calls it.
const LANGUAGES: [(&str, &str); 5] =
    [("handler.py", "python"), ("handler.go", "go"), ("handler.ts", "ts"), ("handler.js", "js"), ("handler.c", "c")];

/// Finds the handlers' files.
///
/// # Errors
///
/// If the folder of the shop cannot be listed.
pub(super) fn sources() -> Result<Vec<Source>> {
    let folders = entries(&paths::root().join("plugins/shop"))?;
    let language_of = |folder: &Path| LANGUAGES.iter().find(|(file, _)| folder.join(file).is_file());
    let mut sources: Vec<_> = folders
        .into_iter()
        .filter_map(|folder| {
            let (_, language) = language_of(&folder)?;
            Some(Source { folder, language: (*language).to_owned() })
        })
        .collect();
    sources.sort_by(|one, other| one.folder.cmp(&other.folder));
    Ok(sources)
}

/// Runs the unit tests of each, in the project that it was built in.
///
/// # Errors
///
/// If a tool cannot be started or a test fails.
pub(super) fn test() -> Result<()> {
    for source in sources()? {
        println!("    testing {}", name(&source.folder));
        templates::test_project(&source.language, &source.project())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{name, sources};

    #[test]
    fn handlers_are_told_by_their_files() {
        let found = sources().expect("the folder can be listed");
        let found: Vec<_> = found.iter().map(|source| (name(&source.folder), source.language.as_str())).collect();
        for (handler, language) in [
            ("analytics", "js"),
            ("audit", "c"),
            ("fraud-check", "python"),
            ("inventory", "go"),
            ("notification", "ts"),
        ] {
            assert!(found.contains(&(handler.to_owned(), language)), "{handler} in {found:?}");
        }
    }
}
