//! Builds all that the chaos run needs and starts it.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{guests, paths, process, tools};

/// How long the chaos run goes on, and what it repeats.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Only this part: waves, deployments, killer, rolling or waits; may be given several times
    #[arg(long, value_name = "PART")]
    pub only: Vec<String>,
    /// Go on for at least this long, divided among the parts
    #[arg(long, value_name = "N")]
    pub minutes: Option<u64>,
    /// Publish about so many events in each part (50,000 in the waves where nothing is said)
    #[arg(long, value_name = "N")]
    pub events: Option<u64>,
    /// Repeat the events and the plan of the kills of an earlier run
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

/// Sets up, builds the guests, tidemill and the chaos run, and starts it.
///
/// # Errors
///
/// If a tool is missing, something cannot be built, or the run finds anything lost or doubled.
pub fn run(options: &Options) -> Result<()> {
    let server = tools::nats_server()?;
    guests::build()?;
    process::build(&["tidemill", "tidemill-chaos"])?;
    let mut chaos = Command::new(paths::target().join("debug/tidemill-chaos"));
    chaos.env("TIDEMILL_NATS_SERVER", server);
    for (flag, value) in [("--minutes", options.minutes), ("--events", options.events), ("--seed", options.seed)] {
        if let Some(value) = value {
            chaos.args([flag, &value.to_string()]);
        }
    }
    for part in &options.only {
        chaos.args(["--only", part]);
    }
    process::stream(&mut chaos)
}
