//! `cargo xtask`: sets up, builds the guests, runs the tests and the demo.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, chaos, demo, guests, matrix, suite, templates, tools};

/// The project's own tool: sets up what is needed, builds the guests, runs the tests and the demo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get a NATS server and the guests' compilers; does nothing where they are there already
    Setup {
        /// The compilers of all languages, not only those of Rust and JavaScript
        #[arg(long)]
        all: bool,
    },
    /// Build the example plugins and the test guests into target/guests
    Guests {
        /// Those of all languages, not only those in Rust and JavaScript
        #[arg(long)]
        all: bool,
    },
    /// Test the kits and what `tidemill new` writes, in every language
    Templates,
    /// Build everything and show it at work: 4,000 events, some of them odd, and what becomes of each
    Demo,
    /// Kill tidemill and restart NATS under load, and check that no event is lost or doubled
    Chaos(chaos::Options),
    /// Measure tidemill beside a hand-written consumer, in the release profile; results are in target/bench
    Bench {
        /// Passed on to the benchmark, such as --rounds 3, --only rows,latency, or --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the integration tests against every NATS server that is supported, from 2.10 on
    Matrix,
    /// Set up, build the guests, check format and lints, run all tests, then the chaos run
    Test {
        /// Passed on to `cargo test`, such as a filter; then the chaos run is left out
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup { all: false } => tools::setup(),
        Task::Setup { all: true } => tools::setup_all(),
        Task::Guests { all } => {
            let dir = if all { guests::build_all() } else { guests::build() }?;
            println!("guests are in {}", dir.display());
            Ok(())
        }
        Task::Templates => templates::test(),
        Task::Demo => demo::run(),
        Task::Chaos(options) => chaos::run(&options),
        Task::Bench { args } => bench::run(&args),
        Task::Matrix => matrix::run(),
        Task::Test { args } => suite::run(&args),
    }
}
