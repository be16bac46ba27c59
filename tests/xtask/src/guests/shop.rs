//! The handlers of the shop (`plugins/shop`), one in each language. The one in Rust is built and tested like any other
//! Rust guest.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::project::Source;
use super::{entries, name};
use crate::{paths, process, tools};

/// How the handlers in one language are told, and tested.
struct Language {
    /// As `tidemill new` calls it.
    name: &'static str,
    /// The file that holds the handler.
    handler: &'static str,
    /// The command that runs the unit tests beside it.
    test: &'static [&'static str],
}

const LANGUAGES: [Language; 5] = [
    Language { name: "python", handler: "handler.py", test: &["python3", "-m", "unittest"] },
    Language { name: "go", handler: "handler.go", test: &["go", "test", "./..."] },
    Language { name: "ts", handler: "handler.ts", test: &["npm", "test", "--silent"] },
    Language { name: "js", handler: "handler.js", test: &["npm", "test", "--silent"] },
    Language { name: "c", handler: "handler.c", test: &["make", "test"] },
];

/// Finds the handlers' files.
///
/// # Errors
///
/// If the folder of the shop cannot be listed.
pub(super) fn sources() -> Result<Vec<Source>> {
    Ok(handlers()?.into_iter().map(|(source, _)| source).collect())
}

/// Runs the unit tests of each, in the project that it was built in.
///
/// # Errors
///
/// If a tool cannot be started or a test fails.
pub(super) fn test() -> Result<()> {
    for (source, language) in handlers()? {
        println!("    testing {}", name(&source.folder));
        let mut test = Command::new(language.test[0]);
        test.args(&language.test[1..]).current_dir(source.project());
        test.env("PATH", tools::path_of_all()?).env("XDG_CACHE_HOME", paths::cache());
        process::stream(&mut test)?;
    }
    Ok(())
}

fn handlers() -> Result<Vec<(Source, &'static Language)>> {
    let folders = entries(&paths::root().join("plugins/shop"))?;
    let language_of = |folder: &Path| LANGUAGES.iter().find(|language| folder.join(language.handler).is_file());
    let mut handlers: Vec<_> = folders
        .into_iter()
        .filter_map(|folder| {
            let language = language_of(&folder)?;
            Some((Source { folder, language: language.name.to_owned() }, language))
        })
        .collect();
    handlers.sort_by(|(one, _), (other, _)| one.folder.cmp(&other.folder));
    Ok(handlers)
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
