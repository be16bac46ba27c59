//! Does with every template what a user does first: `tidemill new`, the language's own unit tests, `tidemill build` and
//! `tidemill test`; and runs the unit tests of the kits.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::empty_folder;
use crate::{paths, process, stamp, tools};

/// A program and its arguments.
type Line = &'static [&'static str];

/// What runs the unit tests of a template, and those of the kit itself where they are not among the workspace's.
const TESTS: [(&str, Line, Option<Line>); 8] = [
    ("c", &["make", "test"], Some(&["make", "test"])),
    ("cpp", &["make", "test"], Some(&["make", "test"])),
    ("go", &["go", "test", "./..."], Some(&["go", "test", "./..."])),
    ("js", &["npm", "test"], Some(&["npm", "test"])),
    ("python", &["python", "-m", "unittest"], Some(&["python", "-m", "unittest", "discover", "tests"])),
    ("rust", &["cargo", "test", "--jobs", "2"], None),
    ("ts", &["npm", "test"], None),
    ("zig", &["zig", "build", "test"], Some(&["zig", "build", "test", "--cache-dir", "../../target/kits/zig"])),
];

/// The name of the projects: two words, since those that are joined by `-` have to be spelt differently here and there.
const NAME: &str = "order-total";

/// Tests the kit and the template of every language of which something has changed.
///
/// # Errors
///
/// If a compiler is missing and cannot be got, or anything fails.
pub fn test() -> Result<()> {
    process::build(&["tidemill"])?;
    for (language, template_test, kit_test) in TESTS {
        let kit = paths::root().join("sdk").join(language);
        let key = key(language, &kit)?;
        let step = format!("template-{language}");
        if stamp::is_fresh(&step, &key) {
            continue;
        }
        println!("    {language}");
        if let Some(kit_test) = kit_test {
            run(kit_test, &kit)?;
        }
        let project = empty_folder(&paths::guest_projects().join("template").join(language))?.join(NAME);
        tidemill(&["new", &project.to_string_lossy(), "--lang", language], project.parent().unwrap_or(&project))?;
        run(template_test, &project)?;
        tidemill(&["build"], &project)?;
        tidemill(&["test"], &project)?;
        stamp::write(&step, &key)?;
    }
    Ok(())
}

/// All that a template and what is done with it depend on, but for the host that runs its cases.
fn key(language: &str, kit: &Path) -> Result<String> {
    let shared = match language {
        "ts" => "sdk/js",
        "cpp" => "sdk/c",
        _ => "wit",
    };
    let common =
        [shared, "wit", "runtime/host/src/project", "runtime/host/src/invoker", "tests/xtask/python", "tests/xtask/js"];
    let mut inputs: Vec<PathBuf> = common.iter().map(|path| paths::root().join(path)).collect();
    inputs.push(kit.to_owned());
    stamp::key_of(&inputs)
}

fn tidemill(args: &[&str], folder: &Path) -> Result<()> {
    process::stream(tools::tidemill()?.args(args).current_dir(folder))
}

/// Runs the unit tests of a project in a language, as its template has them.
///
/// # Errors
///
/// If there is no such language, its tool cannot be started or a test fails.
pub(crate) fn test_project(language: &str, project: &Path) -> Result<()> {
    let found = TESTS.iter().find(|(known, ..)| *known == language);
    let (_, command, _) = found.with_context(|| format!("no tests are known for {language}"))?;
    run(command, project)
}

/// Runs the tests of a language natively.
fn run(command: &[&str], folder: &Path) -> Result<()> {
    let (program, args) = command.split_first().context("an empty command")?;
    let mut test = if *program == "cargo" { process::cargo() } else { Command::new(program) };
    test.args(args).current_dir(folder).env("PATH", tools::path_of_all()?);
    test.env("XDG_CACHE_HOME", paths::cache()).env("CARGO_TARGET_DIR", paths::target().join("templates"));
    test.env("PYTHONDONTWRITEBYTECODE", "1");
    process::stream(&mut test)
}
