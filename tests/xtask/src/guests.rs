//! Builds the example plugins (`plugins/`, `plugins/shop/`) and the test guests (`tests/guests/`) for WebAssembly.
//!
//! A folder with a `Cargo.toml` is a Rust guest, of which the package is called like the folder; one
//! with a `handler.js` is a JavaScript guest, and gets the kit (`sdk/js`) as its folder `tidemill`. All Rust guests share one target folder and one profile,
//! so that the standard library and the SDK are compiled once. A folder `<name>.cases` beside them holds the cases
//! of a guest, and is put beside its component.
//!
//! The other handlers of the shop, and the guests of the conformance cases in other languages, are built as users of the
//! kits would build them.

mod cases;
mod project;
mod shop;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{self, RustBuilder};
use crate::{paths, process, stamp};

/// The folders that hold one guest in each of their folders.
const HOMES: [&str; 2] = ["plugins", "tests/guests"];

/// The folder of the shop, of which only the handler in Rust is built like the guests in the other folders.
const SHOP: &str = "plugins/shop";

/// The profile that guests are built with, as cargo's environment settings: that of the projects that `tidemill new` writes,
/// so that the standard library is built once for both. Small, since a component is loaded over and over; without debug
/// info, but with function names, so that a trap's backtrace can be read.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
];

/// Builds every guest of which something has changed and returns the folder of the results, which holds
/// one `<name>.wasm` for each.
///
/// # Errors
///
/// If a compiler is missing and cannot be got, or a guest does not compile.
pub fn build() -> Result<PathBuf> {
    let out = paths::guests();
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    build_rust(&folders_with("Cargo.toml", &[&HOMES[..], &[SHOP]].concat())?, &out)?;
    for folder in folders_with("handler.js", &HOMES)? {
        build_javascript(&folder, &out)?;
    }
    for home in HOMES.iter().chain([&SHOP]) {
        copy_cases(&paths::root().join(home), &out)?;
    }
    Ok(out)
}

/// Builds, besides, the guests of all other languages.
///
/// # Errors
///
/// If a compiler is missing and cannot be got, or a guest does not compile.
pub fn build_all() -> Result<PathBuf> {
    let out = build()?;
    for source in cases::sources()?.into_iter().chain(shop::sources()?) {
        source.build(&out)?;
    }
    Ok(out)
}

/// Runs the unit tests of the JavaScript guests, under Node.js and without a host.
///
/// # Errors
///
/// If Node.js cannot be started or a test fails.
pub fn test_javascript() -> Result<()> {
    for folder in folders_with("handler.js", &HOMES)? {
        process::stream(Command::new("node").arg("--test").current_dir(stage_javascript(&folder)?))?;
    }
    Ok(())
}

/// Runs the unit tests of the shop's handlers, each with the usual tool of its language and without a host. To be called
/// after [`build_all`]. Those of the one in Rust are among the workspace's.
///
/// # Errors
///
/// If a tool cannot be started or a test fails.
pub fn test_shop() -> Result<()> {
    shop::test()
}

/// The guests' folders in these homes that hold a file of this name, in order of name.
fn folders_with(file: &str, homes: &[&str]) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for home in homes {
        folders.extend(entries(&paths::root().join(home))?.into_iter().filter(|folder| folder.join(file).is_file()));
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
    let built = target_dir.join(builder.target()).join("release");
    for (folder, result) in folders.iter().zip(&results) {
        let crate_name = name(folder).replace('-', "_");
        install(&built.join(crate_name).with_extension("wasm"), result)?;
    }
    stamp::write("guests-rust", &key)
}

fn cargo_build(builder: &RustBuilder, folders: &[PathBuf], target_dir: &Path) -> Command {
    let mut cargo = builder.cargo_build();
    cargo.current_dir(paths::root());
    cargo.envs(PROFILE).args(["--locked", "--jobs", "2", "--release", "--target-dir"]).arg(target_dir);
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
    let common = ["sdk/js/src", "wit", "tests/xtask/js/package-lock.json"].map(|path| root.join(path));
    let key = stamp::key_of(&[&[folder.to_owned()], &common[..]].concat())?;
    if stamp::is_fresh(&step, &key) && result.is_file() {
        return Ok(());
    }
    let componentize = tools::componentize_qjs()?;
    println!("    compiling {}", name(folder));
    let project = stage_javascript(folder)?;
    let scratch = project.join(format!("{}.tmp", std::process::id()));
    process::stream(
        Command::new(componentize)
            .current_dir(&project)
            .args(["--world", "plugin", "--js", "tidemill/main.js", "--sync", "--wit"])
            .arg(root.join("wit"))
            .arg("--output")
            .arg(&scratch),
    )?;
    fs::rename(&scratch, &result).with_context(|| format!("cannot write {}", result.display()))?;
    stamp::write(&step, &key)
}

/// Puts a copy of a JavaScript guest and one of the kit beside each other, as they are in a user's project.
fn stage_javascript(folder: &Path) -> Result<PathBuf> {
    let project = empty_folder(&paths::guest_projects().join(name(folder)))?;
    copy_over(folder, &project)?;
    copy_over(&paths::root().join("sdk/js/src"), &empty_folder(&project.join("tidemill"))?)?;
    let package = project.join("package.json");
    fs::write(&package, r#"{"type": "module"}"#).with_context(|| format!("cannot write {}", package.display()))?;
    Ok(project)
}

/// Makes a folder, without what was in it before.
pub(crate) fn empty_folder(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.to_owned())
}

/// Copies each folder of cases in `home` to `out`, and removes what is gone from it there.
fn copy_cases(home: &Path, out: &Path) -> Result<()> {
    for folder in entries(home)?.into_iter().filter(|folder| folder.extension().is_some_and(|end| end == "cases")) {
        let copy = out.join(name(&folder));
        fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
        for file in entries(&folder)? {
            install(&file, &copy.join(name(&file)))?;
        }
        for file in entries(&copy)?.into_iter().filter(|file| !folder.join(name(file)).exists()) {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(())
}

/// Copies all that is in a folder to another one, over what is there.
fn copy_over(from: &Path, to: &Path) -> Result<()> {
    for entry in entries(from)? {
        let copy = to.join(name(&entry));
        if entry.is_dir() {
            fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
            copy_over(&entry, &copy)?;
        } else {
            fs::copy(&entry, &copy).with_context(|| format!("cannot copy {}", entry.display()))?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    list.with_context(|| format!("cannot list {}", folder.display()))
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
    use std::fs;

    use super::{HOMES, copy_cases, entries, folders_with, name};

    #[test]
    fn cases_are_copied_and_those_that_are_gone_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [home, out] = ["home", "out"].map(|name| folder.path().join(name));
        let write = |name: &str, text: &str| {
            fs::create_dir_all(home.join("a.cases")).expect("made");
            fs::write(home.join("a.cases").join(name), text).expect("written");
        };
        write("one.toml", "1");
        write("two.toml", "2");
        fs::create_dir_all(home.join("a")).expect("made");
        copy_cases(&home, &out).expect("copied");
        fs::remove_file(home.join("a.cases/two.toml")).expect("removed");
        write("one.toml", "changed");
        copy_cases(&home, &out).expect("copied");
        assert_eq!(fs::read_to_string(out.join("a.cases/one.toml")).expect("read"), "changed");
        let left: Vec<_> = entries(&out.join("a.cases")).expect("listed").iter().map(|file| name(file)).collect();
        assert_eq!((left, entries(&out).expect("listed").len()), (vec!["one.toml".to_owned()], 1));
    }

    #[test]
    fn guests_are_told_apart_by_their_files() {
        let names = |file| {
            let folders = folders_with(file, &HOMES).expect("the folders can be listed");
            folders.iter().map(|folder| name(folder)).collect::<Vec<_>>()
        };
        assert!(names("Cargo.toml").contains(&"unruly".to_owned()));
        assert!(names("handler.js").contains(&"loyalty-points".to_owned()));
        assert!(!names("Cargo.toml").contains(&"loyalty-points".to_owned()));
    }
}
