//! Builds all that the benchmark needs, in the release profile, and starts it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::{guests, paths, process, tools};

/// Sets up, builds the guests, tidemill and the benchmark, and starts it. `args` go to the benchmark.
///
/// # Errors
///
/// If a tool is missing, something cannot be built, or a measurement fails.
pub fn run(args: &[OsString]) -> Result<()> {
    let server = tools::nats_server()?;
    guests::build_all()?;
    process::build_release(&["tidemill", "tidemill-bench"])?;
    let mut bench = Command::new(paths::target().join("release/tidemill-bench"));
    bench.arg("run").arg("--out").arg(paths::target().join("bench")).args(args).env("TIDEMILL_NATS_SERVER", server);
    process::stream(&mut bench)
}
