//! componentize-qjs, which turns JavaScript into components; from npm, as pinned by `tests/xtask/js`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process, stamp};

const BY_HAND: &str = "install Node.js 20 or newer with npm by hand and run this again";

/// Finds or installs componentize-qjs and returns the path of its executable.
///
/// # Errors
///
/// If Node.js or npm is missing, or npm cannot install the pinned packages.
pub fn componentize_qjs() -> Result<PathBuf> {
    let pinned = paths::root().join("tests/xtask/js");
    let dir = paths::tools().join("js");
    let executable = dir.join("node_modules/.bin/componentize-qjs");
    let files = ["package.json", "package-lock.json"].map(|name| pinned.join(name));
    let key = stamp::key_of(&files)?;
    if stamp::is_fresh("js", &key) && executable.exists() {
        return Ok(executable);
    }
    let _lock = super::lock()?;
    if stamp::is_fresh("js", &key) && executable.exists() {
        return Ok(executable);
    }
    for program in ["node", "npm"] {
        if paths::find_in_path(program).is_none() {
            bail!("{program} is not in the PATH; {BY_HAND}");
        }
    }
    println!("    installing componentize-qjs from npm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for file in &files {
        let copy = dir.join(file.file_name().unwrap_or_default());
        fs::copy(file, copy).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    // Not `npm ci`: it refuses the lock file, because some platforms' binaries (optional dependencies of
    // this version) were never published. `npm install` keeps to its versions and checksums too.
    process::stream(
        Command::new("npm")
            .args(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
            .arg(&dir),
    )
    .context(BY_HAND)?;
    stamp::write("js", &key)?;
    Ok(executable)
}
