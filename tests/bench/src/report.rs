//! The benchmark as a whole: what is measured in which order, and how it is told.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;

use crate::footprint::{self, Held, Start};
use crate::guest::{self, Call};
use crate::languages::{self, Language};
use crate::neighbours::{self, Fairness};
use crate::rows::{self, Alone, Outcome};
use crate::swaps::{self, Swaps};
use crate::sweep::{self, Point};
use crate::{chart, tell};

/// What is measured, and where it is written.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How often each measurement is made
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How many events the fastest measurements have
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) events: u64,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Only rows with this in their names
    #[arg(long)]
    pub(crate) row: Option<String>,
    /// The folder of bench.json, bench.txt and bench.svg
    #[arg(long)]
    pub(crate) out: PathBuf,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Throughput of each kind of handler, beside the hand-written consumer
    Rows,
    /// What is added to an event that is alone on its way
    Latency,
    /// The cost of a guest's call
    Guests,
    /// The same handler in each language, those built by cargo xtask guests --all
    Languages,
    /// A good handler beside bad ones
    Fairness,
    /// A handler whose component is replaced all the time
    Swaps,
    /// How soon it is ready, and what it holds when idle
    Start,
    /// Memory over a million events
    Memory,
    /// Curves over concurrency and size
    Curves,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: u32,
    pub(crate) machine: String,
    pub(crate) rows: Vec<Outcome>,
    pub(crate) latency: Option<Alone>,
    pub(crate) guests: Vec<Call>,
    pub(crate) languages: Vec<Language>,
    pub(crate) fairness: Option<Fairness>,
    pub(crate) swaps: Option<Swaps>,
    pub(crate) start: Vec<Start>,
    pub(crate) memory: Vec<Held>,
    pub(crate) over_concurrency: Vec<Point>,
    pub(crate) over_size: Vec<Point>,
}

/// Measures what is asked for, and writes it down.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let base = TempDir::with_prefix("tidemill-bench-")?;
    let base = base.path();
    let Options { rounds, events, .. } = *options;
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    let mut report = Report { rounds, machine: machine(), ..Report::default() };
    if wants(Part::Guests) {
        progress("the cost of guests");
        report.guests = guest::calls(rounds, 20_000).await?;
    }
    if wants(Part::Languages) {
        progress("the cost of languages");
        report.languages = languages::measure(rounds).await?;
    }
    if wants(Part::Rows) {
        let is_wanted = |name: &str| options.row.as_deref().is_none_or(|part| name.contains(part));
        for row in rows::all(events).iter().filter(|row| is_wanted(row.name)) {
            progress(row.name);
            let outcome = rows::measure(base, row, rounds).await?;
            let (ours, ratio) = (outcome.tidemill.median, outcome.ratio.median);
            progress(&format!("  {ours:.0} events/s, {ratio:.2} of the hand-written consumer"));
            report.rows.push(outcome);
        }
    }
    if wants(Part::Latency) {
        progress("latency with one event in flight");
        report.latency = Some(rows::alone(base, events / 6, rounds).await?);
    }
    if wants(Part::Fairness) {
        progress("a good handler beside bad ones");
        report.fairness = Some(neighbours::measure(base, events, rounds).await?);
    }
    if wants(Part::Swaps) {
        progress("components that are swapped");
        report.swaps = Some(swaps::measure(base, events * 4, rounds).await?);
    }
    if wants(Part::Start) {
        for components in [1, 10, 100] {
            progress(&format!("start with {components} components"));
            report.start.push(footprint::start(base, components, rounds).await?);
        }
    }
    if wants(Part::Curves) {
        progress("curves over concurrency");
        report.over_concurrency = sweep::over_concurrency(base, events, rounds).await?;
        progress("curves over size");
        report.over_size = sweep::over_size(base, events, rounds).await?;
    }
    if wants(Part::Memory) {
        progress("memory over many events");
        report.memory = footprint::memory(base, &[1_000, 100_000, 1_000_000]).await?;
    }
    write(options, &report)
}

fn write(options: &Options, report: &Report) -> Result<()> {
    let text = tell::text(report);
    print!("{text}");
    std::fs::create_dir_all(&options.out).context("cannot make the folder of results")?;
    std::fs::write(options.out.join("bench.txt"), text)?;
    std::fs::write(options.out.join("bench.json"), serde_json::to_string_pretty(report)?)?;
    if !report.over_concurrency.is_empty() {
        chart::draw(&options.out.join("bench.svg"), report)?;
    }
    println!("\nwritten to {}", options.out.display());
    Ok(())
}

/// Where somebody waits for the table, this tells that something goes on.
fn progress(what: &str) {
    eprintln!("{what}");
}

/// The machine, as far as it matters.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} x {}", model.trim_start_matches([' ', '\t', ':']))
}
