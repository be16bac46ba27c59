//! Builds all that the demo needs and turns into it.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{guests, paths, process, tools};

/// Sets up, builds the guests, tidemill and the demo, and runs the demo in place of this process, so that
/// Ctrl-C reaches it alone.
///
/// # Errors
///
/// If a tool is missing or something cannot be built. If the demo starts, this does not return.
pub fn run() -> Result<()> {
    start(build()?)
}

/// Runs the demo as a test.
///
/// # Errors
///
/// If something cannot be built, or the demo finds that something is not as it must be.
pub fn test() -> Result<()> {
    process::stream(&mut build()?)
}

fn build() -> Result<Command> {
    tools::setup_all()?;
    println!("==> Guests");
    println!("    {}", guests::build_all()?.display());
    println!("==> tidemill and the demo (the first time, this takes some minutes)");
    process::build(&["tidemill", "tidemill-demo"])?;
    println!();
    let mut demo = Command::new(paths::target().join("debug/tidemill-demo"));
    demo.env("TIDEMILL_NATS_SERVER", tools::nats_server()?);
    Ok(demo)
}

#[cfg(unix)]
fn start(mut demo: Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(demo.exec()).context("cannot start the demo")
}

#[cfg(not(unix))]
fn start(mut demo: Command) -> Result<()> {
    let status = demo.status().context("cannot start the demo")?;
    std::process::exit(status.code().unwrap_or(1));
}
