//! The benchmark: tidemill beside a hand-written consumer that does the same work, in turn, on servers of their own.
//!
//! `run` is the harness. It starts this executable again as the load generator (`load`) and as the hand-written
//! consumer (`baseline`), so that each has a process of its own, of which the CPU time can be told.

mod baseline;
mod chart;
mod footprint;
mod guest;
mod languages;
mod load;
mod measure;
mod neighbours;
mod process;
mod report;
mod rows;
mod stats;
mod subject;
mod swaps;
mod sweep;
mod tell;
mod work;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures tidemill against a hand-written consumer.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, and print a table
    Run(report::Options),
    /// Be the hand-written consumer
    Baseline(baseline::Options),
    /// Be the load generator
    Load(load::Options),
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

/// On as many threads as tidemill has, but for the load generator: that has one, and a core to itself as far as
/// there is one.
fn run(task: Task) -> Result<()> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if let Task::Load(_) = task {
        load::pin();
        threads.worker_threads(1);
    }
    let runtime = threads.enable_all().build()?;
    runtime.block_on(async {
        match task {
            Task::Run(options) => report::run(&options).await,
            Task::Baseline(options) => baseline::run(&options).await,
            Task::Load(options) => load::run(&options).await,
        }
    })
}
