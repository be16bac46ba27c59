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
mod trial;
mod unrest;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use tempfile::TempDir;

use crate::trial::Trial;

/// How many events the waves have where nothing is said.
const WAVES_EVENTS: u64 = 50_000;

/// Kills tidemill and restarts NATS under load, and checks that no event is lost or doubled.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this part; may be given several times
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Go on for at least this long, divided among the parts
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// Publish about so many events in each part; its short form where nothing is said
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Repeat the events and the plan of the kills of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Waves of events while instances are killed and the server is restarted
    Waves,
    /// Three deployments side by side in one account
    Deployments,
    /// Events that kill their process at each attempt, beside innocent ones
    Killer,
    /// A cluster of three servers, restarted one after the other
    Rolling,
    /// Events that are kept waiting while instances are killed
    Waits,
}

/// What a part is run with.
#[derive(Debug, Clone, Copy)]
struct Options {
    events: Option<u64>,
    duration: Duration,
    seed: u64,
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

/// Runs all parts, also where one of them fails; says whether everything was as it must be.
async fn chaos(arguments: &Arguments) -> Result<bool> {
    let parts = if arguments.only.is_empty() { Part::value_variants() } else { &arguments.only };
    let duration = Duration::from_mins(arguments.minutes) / u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let mut broken = Vec::new();
    for &part in parts {
        let options = Options { events: arguments.events, duration, seed };
        let holds = tokio::select! {
            holds = part.run(options) => holds?,
            // What runs is killed when its future is dropped.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        };
        if !holds {
            broken.push(part.name());
        }
    }
    if broken.is_empty() {
        println!("Nothing was lost or doubled, and nobody was charged for what was not begun.");
    } else {
        println!("VIOLATED in {}; see above.", broken.join(", "));
    }
    Ok(broken.is_empty())
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Runs this part, a trial again and again until its time is over, each time with the next seed.
    async fn run(self, options: Options) -> Result<bool> {
        let trial = match self {
            Part::Waves => return self.once(None, options).await,
            Part::Deployments => Trial::Deployments,
            Part::Killer => Trial::Killer,
            Part::Rolling => Trial::Rolling,
            Part::Waits => Trial::Waits,
        };
        let start = Instant::now();
        let mut seed = options.seed;
        loop {
            let holds = self.once(Some(trial), Options { seed, duration: Duration::ZERO, ..options }).await?;
            if !holds || start.elapsed() >= options.duration {
                return Ok(holds);
            }
            seed = seed.wrapping_add(1);
        }
    }

    /// Runs it once. Where something is not as it must be, the folder with logs and streams is kept.
    async fn once(self, trial: Option<Trial>, options: Options) -> Result<bool> {
        let again = self.command(options);
        println!("\nChaos, {} with seed {}; to repeat it:\n  {again}\n", self.name(), options.seed);
        let folder = tempfile::Builder::new().prefix("tidemill-chaos-").tempdir().context("cannot create a folder")?;
        let Options { events, duration, seed } = options;
        let ended = match trial {
            None => {
                let events = events.unwrap_or(WAVES_EVENTS);
                let outcome = run::run(folder.path(), run::Options { events, duration, seed }).await;
                outcome.map(|outcome| (outcome.lines(), outcome.holds()))
            }
            Some(trial) => {
                let outcome = trial::run(trial, folder.path(), trial::Options { seed, events }).await;
                outcome.map(|outcome| (outcome.lines(), outcome.holds()))
            }
        };
        let (lines, holds) = ended.unwrap_or_else(|error| (format!("VIOLATED: {error:#}"), false));
        println!("{lines}");
        if !holds {
            println!("Logs and streams are in {}; to repeat the run:\n  {again}", keep(folder));
        }
        Ok(holds)
    }

    /// The command that runs it again.
    fn command(self, options: Options) -> String {
        let mut command = format!("cargo xtask chaos --only {} --seed {}", self.name(), options.seed);
        if let Some(events) = options.events {
            let _ = write!(command, " --events {events}");
        }
        let minutes = options.duration.as_secs().div_ceil(60);
        if minutes > 0 {
            let _ = write!(command, " --minutes {minutes}");
        }
        command
    }
}

/// A seed that is short enough to be typed.
fn random_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()) + now.as_secs() % 1000)
}

/// Keeps the folder with the logs and says where it is.
fn keep(folder: TempDir) -> String {
    folder.keep().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_printed_runs_the_same_again() {
        let options = Options { events: Some(70), duration: Duration::from_mins(3), seed: 9 };
        let command = Part::Waves.command(options);
        let words = command.strip_prefix("cargo xtask ").expect("it is one of xtask's").split(' ');
        let read = Arguments::try_parse_from(words).expect("it is understood");
        assert_eq!((read.only, read.minutes, read.events, read.seed), (vec![Part::Waves], 3, Some(70), Some(9)));
    }
}
