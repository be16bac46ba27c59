//! Running other programs so that a person can see what goes on.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;

const HEARTBEAT: Duration = Duration::from_secs(15);

/// Runs a command with its output on the terminal; says every 15 seconds that it is still running.
///
/// # Errors
///
/// If it cannot be started or does not end with success.
pub fn stream(command: &mut Command) -> Result<()> {
    let name = name(command);
    println!("    $ {}", line(command));
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {name}"))?;
    let (ended, watch) = mpsc::channel::<()>();
    let heartbeat = thread::spawn(move || {
        let start = Instant::now();
        while watch.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("    … still running after {} s", start.elapsed().as_secs());
        }
    });
    let status = child.wait();
    drop(ended);
    heartbeat.join().ok();
    let status = status.with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs a command in silence and returns what it printed on standard output.
///
/// # Errors
///
/// If it cannot be started or does not end with success; the error holds what it printed on standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs this program, else the one in the `PATH`.
///
/// It is not told that xtask is the package that runs: some build scripts watch those variables, and all that
/// depends on them would be built anew whenever cargo is called by hand and through xtask in turn.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Builds executables of this workspace.
///
/// The features of dependencies hang on which packages are selected. With all of them selected, as for the
/// tests, what both need is built once.
///
/// # Errors
///
/// If they cannot be built.
pub fn build(executables: &[&str]) -> Result<()> {
    build_with(&[], executables)
}

/// The same, optimised.
///
/// # Errors
///
/// If they cannot be built.
pub fn build_release(executables: &[&str]) -> Result<()> {
    build_with(&["--release"], executables)
}

fn build_with(args: &[&str], executables: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.current_dir(paths::root()).args(["build", "--workspace", "--jobs", "2"]).args(args);
    for executable in executables {
        command.args(["--bin", executable]);
    }
    stream(&mut command)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(command.get_program().to_string_lossy()).chain(words).collect::<Vec<_>>().join(" ")
}
