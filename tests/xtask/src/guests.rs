//! Builds the example plugins (`plugins/`) and the test guests (`tests/guests/`) for WebAssembly.
//!
//! A folder with a `Cargo.toml` is a Rust guest, of which the package is called like the folder; one
//! with a `handler.js` is a JavaScript guest. All Rust guests share one target folder and one profile,
//! so that the standard library and the SDK are compiled once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{self, RustBuilder};
use crate::{paths, process, stamp};

/// The folders that hold one guest in each of their folders.
const HOMES: [&str; 2] = ["plugins", "tests/guests"];

/// The profile in the workspace's `Cargo.toml` that guests are built with.
const PROFILE: &str = "guest";

/// Builds every guest of which something has changed and returns the folder of the results, which holds
/// one `<name>.wasm` for each.
///
/// # Errors
///
/// If a compiler is missing and cannot be got, or a guest does not compile.
pub fn build() -> Result<PathBuf> {
    let out = paths::guests();
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    build_rust(&folders_with("Cargo.toml")?, &out)?;
    for folder in folders_with("handler.js")? {
        build_javascript(&folder, &out)?;
    }
    Ok(out)
}

/// Runs the unit tests of the JavaScript guests, under Node.js and without a host.
///
/// # Errors
///
/// If Node.js cannot be started or a test fails.
pub fn test_javascript() -> Result<()> {
    for folder in folders_with("handler.js")? {
        process::stream(Command::new("node").arg("--test").current_dir(folder))?;
    }
    Ok(())
}

/// The guests' folders that hold a file of this name, in order of name.
fn folders_with(file: &str) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for home in HOMES {
        let home = paths::root().join(home);
        let entries = fs::read_dir(&home).with_context(|| format!("cannot list {}", home.display()))?;
        for entry in entries {
            let folder = entry?.path();
            if folder.join(file).is_file() {
                folders.push(folder);
            }
        }
    }
    folders.sort();
    Ok(folders)
}

fn build_rust(folders: &[PathBuf], out: &Path) -> Result<()> {
    let key = rust_key(folders)?;
    let results: Vec<_> = folders.iter().map(|folder| wasm_file(folder, out)).collect();
    if stamp::is_fresh("guests-rust", &key) && results.iter().all(|file| file.is_file()) {
        return Ok(());
    }
    let builder = tools::rust_builder()?;
    println!("    compiling the Rust guests with {builder}");
    let target_dir = paths::target().join("guests-build");
    process::stream(&mut cargo_build(&builder, folders, &target_dir))?;
    let built = target_dir.join(builder.target()).join(PROFILE);
    for (folder, result) in folders.iter().zip(&results) {
        let crate_name = name(folder).replace('-', "_");
        install(&built.join(crate_name).with_extension("wasm"), result)?;
    }
    stamp::write("guests-rust", &key)
}

fn cargo_build(builder: &RustBuilder, folders: &[PathBuf], target_dir: &Path) -> Command {
    let mut cargo = builder.cargo_build();
    cargo.current_dir(paths::root());
    cargo.args(["--locked", "--jobs", "2", "--profile", PROFILE, "--target-dir"]).arg(target_dir);
    for folder in folders {
        cargo.args(["--package", &name(folder)]);
    }
    cargo
}

/// Everything that the Rust guests are made of. Cargo would find out too, but takes a second to.
fn rust_key(folders: &[PathBuf]) -> Result<String> {
    let root = paths::root();
    let mut inputs: Vec<_> = ["Cargo.toml", "Cargo.lock", "sdk/rust", "wit"].map(|name| root.join(name)).into();
    inputs.extend_from_slice(folders);
    stamp::key_of(&inputs)
}

fn build_javascript(folder: &Path, out: &Path) -> Result<()> {
    let root = paths::root();
    let result = wasm_file(folder, out);
    let step = format!("guests-{}", name(folder));
    let lock_file = root.join("tests/xtask/js/package-lock.json");
    let key = stamp::key_of(&[folder.to_owned(), root.join("wit"), lock_file])?;
    if stamp::is_fresh(&step, &key) && result.is_file() {
        return Ok(());
    }
    let componentize = tools::componentize_qjs()?;
    println!("    compiling {}", name(folder));
    let scratch = paths::tools().join(format!("{}-{}.wasm", name(folder), std::process::id()));
    process::stream(
        Command::new(componentize)
            .current_dir(folder)
            .args(["--world", "plugin", "--js", "handler.js", "--sync", "--wit"])
            .arg(root.join("wit"))
            .arg("--output")
            .arg(&scratch),
    )?;
    install(&scratch, &result)?;
    fs::remove_file(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    stamp::write(&step, &key)
}

/// Puts a file into place in one step, so that nobody ever reads half of it.
fn install(from: &Path, to: &Path) -> Result<()> {
    let scratch = to.with_extension(format!("{}.tmp", std::process::id()));
    fs::copy(from, &scratch).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&scratch, to).with_context(|| format!("cannot write {}", to.display()))
}

fn wasm_file(folder: &Path, out: &Path) -> PathBuf {
    out.join(format!("{}.wasm", name(folder)))
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{folders_with, name};

    #[test]
    fn guests_are_told_apart_by_their_files() {
        let names = |file| {
            let folders = folders_with(file).expect("the folders can be listed");
            folders.iter().map(|folder| name(folder)).collect::<Vec<_>>()
        };
        assert!(names("Cargo.toml").contains(&"unruly".to_owned()));
        assert!(names("handler.js").contains(&"loyalty-points".to_owned()));
        assert!(!names("Cargo.toml").contains(&"loyalty-points".to_owned()));
    }
}
