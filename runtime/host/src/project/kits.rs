//! The kits that are part of the binary: for each language the folder `sdk/<language>` with `kit.toml` and `template/`.
//!
//! `template/` is the project that is written. In its files and their names `{{name}}` and `{{snake}}` stand for the
//! project's name; an ending `.template` of a file's name is dropped, so that tools do not take it for what it will
//! be. `kit.toml` says what is put beside it, and what is to be done after it has been written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::name::Name;

/// Every file below `sdk/` and `wit/`: its path, with `/` between folders, and its content.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/kits.rs"));

/// Other names of languages.
const ALIASES: [(&str, &str); 9] = [
    ("javascript", "js"),
    ("node", "js"),
    ("typescript", "ts"),
    ("py", "python"),
    ("golang", "go"),
    ("rs", "rust"),
    ("c++", "cpp"),
    ("cxx", "cpp"),
    ("cc", "cpp"),
];

/// The kit of one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    /// The language, such as `js`.
    pub language: &'static str,
    settings: Settings,
}

/// What `kit.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// What is copied into a new project besides the template.
    #[serde(default)]
    files: Vec<Copied>,
    /// The commands that a person has to run once before the project can be built.
    #[serde(default)]
    next: Vec<String>,
}

/// A file or folder of the repository and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copied {
    /// Relative to the kit's folder.
    from: String,
    /// Relative to the project's folder.
    to: String,
}

/// Every language that there is a kit for, in alphabetical order.
pub fn languages() -> Vec<&'static str> {
    let mut languages: Vec<_> = FILES.iter().filter_map(|(path, _)| language_of(path)).collect();
    languages.dedup();
    languages
}

/// The language whose template a file belongs to.
fn language_of(path: &'static str) -> Option<&'static str> {
    let (language, rest) = path.strip_prefix("sdk/")?.split_once('/')?;
    rest.starts_with("template/").then_some(language)
}

/// Finds the kit of a language, by the language's name or another usual one.
///
/// # Errors
///
/// If there is none; then the language that is probably meant.
pub fn find(name: &str) -> Result<Kit, Option<&'static str>> {
    let lower = name.to_ascii_lowercase();
    let alias = ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |(_, language)| language);
    let languages = languages();
    match languages.iter().find(|language| **language == alias) {
        Some(language) => Ok(Kit { language, settings: settings(language) }),
        None => Err(meant(&lower, &languages)),
    }
}

/// The language whose name, usual or other, comes nearest.
fn meant(name: &str, languages: &[&'static str]) -> Option<&'static str> {
    let others = ALIASES.iter().filter(|(_, language)| languages.contains(language)).copied();
    let names = languages.iter().map(|language| (*language, *language)).chain(others);
    let distance = |known: &str| strsim::osa_distance(name, known);
    let nearest = names.min_by_key(|(known, _)| distance(known));
    nearest.filter(|(known, _)| distance(known) <= known.len().div_ceil(3)).map(|(_, language)| language)
}

/// What the language's `kit.toml` says; a test reads all of them.
fn settings(language: &str) -> Settings {
    let path = format!("sdk/{language}/kit.toml");
    let file = FILES.iter().find(|(found, _)| *found == path);
    let text = file.and_then(|(_, content)| std::str::from_utf8(content).ok());
    text.and_then(|text| toml::from_str(text).ok()).unwrap_or_default()
}

impl Kit {
    /// What is to be run once before the project can be built.
    pub fn next(&self) -> &[String] {
        &self.settings.next
    }

    /// The files of a new project: their paths, with `/` between folders, and their contents.
    pub fn files(&self, name: &Name) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for Copied { from, to } in &self.settings.files {
            let from = resolve(self.language, from);
            files.extend(below(&from).map(|(rest, content)| (join(to, rest), content.to_vec())));
        }
        let template = format!("sdk/{}/template", self.language);
        files.extend(below(&template).map(|(path, content)| {
            let path = path.strip_suffix(".template").unwrap_or(path);
            (fill(path, name), fill_bytes(content, name))
        }));
        files
    }
}

/// A path from the kit's folder as one from the repository's.
fn resolve(language: &str, path: &str) -> String {
    let mut parts = vec!["sdk", language];
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The file of this path, or all files below it, with the rest of their paths.
fn below(path: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    FILES.iter().filter_map(move |(found, content)| {
        let rest = found.strip_prefix(path)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| (rest.trim_start_matches('/'), *content))
    })
}

fn join(folder: &str, rest: &str) -> String {
    match (folder.trim_end_matches('/'), rest) {
        ("" | ".", rest) => rest.to_owned(),
        (file, "") => file.to_owned(),
        (folder, rest) => format!("{folder}/{rest}"),
    }
}

fn fill(text: &str, name: &Name) -> String {
    text.replace("{{name}}", name.kebab()).replace("{{snake}}", &name.snake())
}

/// Fills in text; what is no text stays as it is.
fn fill_bytes(content: &[u8], name: &Name) -> Vec<u8> {
    std::str::from_utf8(content).map_or_else(|_| content.to_vec(), |text| fill(text, name).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kit_says_what_there_is() {
        let name = Name::new("order-total").expect("a name");
        for language in languages() {
            let path = format!("sdk/{language}/kit.toml");
            let (_, content) = FILES.iter().find(|(found, _)| *found == path).unwrap_or_else(|| panic!("no {path}"));
            let text = std::str::from_utf8(content).expect("UTF-8");
            let settings: Settings = toml::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}"));
            for Copied { from, .. } in &settings.files {
                assert!(below(&resolve(language, from)).next().is_some(), "{path}: there is no {from}");
            }
            let files = find(language).expect("a kit").files(&name);
            assert!(files.contains_key("tidemill.toml"), "{language}: {:?}", files.keys());
            assert!(files.keys().any(|path| path.starts_with("plugins/order-total.cases/")), "{language}");
            for (path, content) in files {
                assert!(!path.contains("{{"), "{language}: {path}");
                assert!(!String::from_utf8_lossy(&content).contains("{{name}}"), "{language}: {path}");
            }
        }
    }

    #[test]
    fn languages_are_found_by_their_usual_names() {
        let found = |name| find(name).map(|kit| kit.language);
        for (name, expected) in [
            ("js", Ok("js")),
            ("JavaScript", Ok("js")),
            ("py", Ok("python")),
            ("javascrpt", Err(Some("js"))),
            ("pyton", Err(Some("python"))),
            ("cobol", Err(None)),
        ] {
            assert_eq!(found(name), expected, "{name}");
        }
    }

    #[test]
    fn paths_are_put_together() {
        assert_eq!(resolve("js", "src"), "sdk/js/src");
        assert_eq!(resolve("ts", "../js/src"), "sdk/js/src");
        assert_eq!(resolve("js", "../../wit"), "wit");
        assert_eq!(join("tidemill/wit", "deps/io.wit"), "tidemill/wit/deps/io.wit");
        assert_eq!(join("tidemill.h", ""), "tidemill.h");
        assert_eq!(join(".", "a"), "a");
    }

    #[test]
    fn only_text_is_filled_in() {
        let name = Name::new("a-b").expect("a name");
        assert_eq!(fill_bytes(b"{{name}} {{snake}}", &name), b"a-b a_b");
        assert_eq!(fill_bytes(b"\xff{{name}}", &name), b"\xff{{name}}");
    }
}
