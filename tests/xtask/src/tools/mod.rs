//! The programs that the project needs and does not bring along, and how to get each.
//!
//! Every function here finds its tool where it is already, and fetches it only where it is not, so all
//! of them can be called at any time and by several processes at once.

mod js;
mod nats;
mod python;
mod rust;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

pub use js::componentize_qjs;
pub use nats::{nats_server, nats_server_default, nats_server_of};
pub use python::python_tools;
pub use rust::{RustBuilder, rust_builder};

use crate::paths;

/// Gets everything that the tests and the demo need.
///
/// # Errors
///
/// If a tool can be neither found nor fetched; the message says what to install by hand.
pub fn setup() -> Result<()> {
    println!("==> NATS server");
    println!("    {}", nats_server()?.display());
    println!("==> Rust for WebAssembly");
    println!("    {}", rust_builder()?);
    println!("==> JavaScript for WebAssembly");
    println!("    {}", componentize_qjs()?.display());
    Ok(())
}

/// Gets the compilers of all languages besides.
///
/// # Errors
///
/// If a tool can be neither found nor fetched; the message says what to install by hand.
pub fn setup_all() -> Result<()> {
    setup()?;
    println!("==> Python, Go, C, C++ and Zig for WebAssembly");
    println!("    {}", python_tools()?.display());
    Ok(())
}

/// The `PATH` with the compilers of all languages in front, each got where it is missing.
///
/// # Errors
///
/// If a tool can be neither found nor fetched, or the `PATH` cannot be written.
pub fn path_of_all() -> Result<OsString> {
    let npm = componentize_qjs()?.parent().map(PathBuf::from).unwrap_or_default();
    let before = std::env::var_os("PATH").unwrap_or_default();
    let folders = [python_tools()?, npm].into_iter().chain(std::env::split_paths(&before));
    std::env::join_paths(folders).context("the PATH cannot be written")
}

/// tidemill as it was built last, with the compilers of all languages. What it and they cache is kept in `target/`.
///
/// # Errors
///
/// If a tool can be neither found nor fetched.
pub fn tidemill() -> Result<Command> {
    let mut command = Command::new(paths::target().join("debug/tidemill"));
    command.env("PATH", path_of_all()?).env("XDG_CACHE_HOME", paths::cache());
    command.env("CARGO_TARGET_DIR", paths::target().join("guests-build"));
    rust_builder()?.set_environment(&mut command);
    Ok(command)
}

/// The `PATH` that a command will have.
fn path_of(command: &Command) -> OsString {
    let set = command.get_envs().find(|(name, _)| *name == "PATH");
    let inherited = || std::env::var_os("PATH").unwrap_or_default();
    set.map_or_else(inherited, |(_, path)| path.map(OsString::from).unwrap_or_default())
}

/// Holds off other processes that fetch tools, until it is dropped.
fn lock() -> Result<File> {
    let dir = paths::tools();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = File::create(dir.join("lock")).context("cannot create the lock file of the tools")?;
    file.lock().context("cannot lock the tools")?;
    Ok(file)
}
