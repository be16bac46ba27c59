//! Golden files: each `tests/ui/<case>.toml` is parsed, and what a user would see must equal
//! `<case>.err`. A folder `<case>.plugins` holds drop-ins. `UPDATE_GOLDEN=1` writes the expectations.

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_policy::manifest::{Source, parse};

fn env(name: &str) -> Option<String> {
    match name {
        "NATS_HOST" => Some("nats.example".to_owned()),
        "LEAK" => Some("sk-live-from-env".to_owned()),
        _ => None,
    }
}

/// The files with this extension in `folder`, in order; none if there is no folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What a user sees of the manifest at `path`.
fn shown(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let drop_ins: Vec<(String, String)> = files(&path.with_extension("plugins"), "toml")
        .iter()
        .map(|path| (format!("plugins/{}", file_name(path)), fs::read_to_string(path).unwrap()))
        .collect();
    let drop_ins: Vec<Source> = drop_ins.iter().map(|(path, text)| Source { path, text }).collect();
    let name = file_name(path);
    match parse(Source { path: &name, text: &text }, &drop_ins, &env) {
        Ok(parsed) => format!("accepted\n\n{}", parsed.warnings),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn every_mistake_is_answered_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = files(&folder, "toml");
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    let mut different = Vec::new();
    for case in cases {
        let (actual, golden) = (shown(&case), case.with_extension("err"));
        if update {
            fs::write(&golden, &actual).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != actual {
            different.push(format!("=== {}\n{actual}", file_name(&case)));
        }
    }
    let remedy = "if these are right, run with UPDATE_GOLDEN=1";
    assert!(different.is_empty(), "{remedy}\n{}", different.join("\n"));
}

#[test]
fn no_secret_is_ever_shown() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    for case in files(&folder, "toml") {
        let shown = shown(&case);
        assert!(!shown.contains("sk-live"), "{}:\n{shown}", case.display());
    }
}
