//! The chaos run: publishes tens of thousands of events to the real `tidemill` and a private NATS server while
//! the instances are killed and the server is restarted, and checks in the end, from the streams alone, that
//! nothing was lost or doubled and that every dead letter tells its whole history.
//!
//! It ends with success only if all of that holds.

mod audit;
mod chance;
mod feed;
mod instances;
mod ledger;
mod manifest;
mod plan;
mod progress;
mod report;
mod run;
mod server;
mod unrest;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tempfile::TempDir;

use crate::run::Options;

/// Kills tidemill and restarts NATS under load, and checks that no event is lost or doubled.
#[derive(Debug, Parser)]
struct Arguments {
    /// Go on for at least this long
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// Publish at least so many events
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Repeat the events and the plan of the kills of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match chaos(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it; says whether everything was as it must be. Where it was not, the folder with logs and streams is
/// kept.
async fn chaos(arguments: &Arguments) -> Result<bool> {
    let (events, minutes) = (arguments.events, arguments.minutes);
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let again = format!("cargo xtask chaos --events {events} --minutes {minutes} --seed {seed}");
    println!("Chaos with seed {seed}; to repeat it:\n  {again}\n");
    let folder = tempfile::Builder::new().prefix("tidemill-chaos-").tempdir().context("cannot create a folder")?;
    let options = Options { events, duration: Duration::from_mins(minutes), seed };
    let ended = tokio::select! {
        ended = run::run(folder.path(), options) => ended,
        // What runs is killed when its future is dropped.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let holds = match ended {
        Ok(outcome) => {
            println!("\n{}", outcome.lines());
            outcome.holds()
        }
        Err(error) => {
            println!("\nVIOLATED: {error:#}");
            false
        }
    };
    if holds {
        println!("Nothing was lost or doubled.");
    } else {
        println!("Logs and streams are in {}; to repeat the run:\n  {again}", keep(folder));
    }
    Ok(holds)
}

/// A seed that is short enough to be typed.
fn random_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()) + now.as_secs() % 1000)
}

/// Keeps the folder with the logs and says where it is.
fn keep(folder: TempDir) -> String {
    folder.keep().display().to_string()
}
