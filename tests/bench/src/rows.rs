//! The rows of the table: what is measured, and beside what.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::load::Latency;
use crate::measure::{Drained, Load, Pace, drain, latency};
use crate::stats::Spread;
use crate::subject::{IN_FLIGHT, Subject, Tidemill};
use crate::work::Work;

/// How many keys the events of ordered handlers have.
const KEYS: u64 = 1_000;

/// How it is remembered which events are done.
const DEDUP: &str = "dedup = { key = 'id', window = '1h' }";

/// One row: tidemill beside the hand-written consumer.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    subject: Tidemill,
    load: Load,
    /// The least share of the hand-written consumer's throughput that is good enough, where there is a goal.
    goal: Option<f64>,
    /// Whether the hand-written consumer remembers which events are done, too.
    baseline_dedup: bool,
}

/// What came of a row.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) goal: Option<f64>,
    /// The hand-written consumer's events a second.
    pub(crate) baseline: Spread,
    /// tidemill's events a second.
    pub(crate) tidemill: Spread,
    /// The second as a share of the first, of each pair of measurements.
    pub(crate) ratio: Spread,
    pub(crate) baseline_cpu: Cpu,
    pub(crate) tidemill_cpu: Cpu,
}

/// Microseconds of CPU time for an event: medians.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cpu {
    pub(crate) server_us: f64,
    pub(crate) client_us: f64,
}

impl Cpu {
    fn of(all: &[Drained]) -> Cpu {
        Cpu {
            server_us: Spread::of(all.iter().map(|one| one.server_us)).median,
            client_us: Spread::of(all.iter().map(|one| one.client_us)).median,
        }
    }
}

/// All rows; `events` is how many the fastest of them have.
pub(crate) fn all(events: u64) -> Vec<Row> {
    vec![
        echo("echo, reused instance", events, "").goal(0.85),
        echo("echo, fresh instance", events, "isolation = 'event'").goal(0.55),
        Row { subject: Tidemill::of("totals", ""), load: Load::of(Work::Totals, events), ..echo("JSON", events, "") }
            .goal(0.75),
        Row { baseline_dedup: true, ..echo("echo, dedup, by hand too", events, DEDUP) }.goal(0.5),
        echo("echo, dedup, by hand without", events, DEDUP),
        echo("echo, acknowledgements confirmed", events, "ack = 'confirmed'"),
        failing(events / 2),
        ordered("echo, 16 partitions", events / 4, "partitions = 16"),
        ordered("echo, queues", events, "form = 'queues'"),
        handlers("echo, 10 handlers", events, 10),
        handlers("echo, 100 handlers", events, 100),
        Row { subject: Tidemill::of("echo-js", ""), ..echo("JavaScript echo", events / 2, "") },
    ]
}

impl Row {
    fn goal(self, goal: f64) -> Row {
        Row { goal: Some(goal), ..self }
    }
}

fn echo(name: &'static str, events: u64, keys: &str) -> Row {
    Row {
        name,
        subject: Tidemill::of("echo", keys),
        load: Load::of(Work::Echo, events),
        goal: None,
        baseline_dedup: false,
    }
}

fn failing(events: u64) -> Row {
    let subject = Tidemill::of("totals", "retry = { initial = '300ms', in_memory = '0s' }\noutage_brake = false");
    let load = Load { fails_each: 10, ..Load::of(Work::Totals, events) };
    Row { subject, load, ..echo("JSON, one in ten fails once", events, "") }
}

fn ordered(name: &'static str, events: u64, form: &str) -> Row {
    let row = echo(name, events, &format!("order = {{ by = 'key', key = 'subject:2', {form} }}"));
    let (subject, load) = (Tidemill { all_subjects: true, ..row.subject }, Load { subjects: KEYS, ..row.load });
    Row { subject, load, ..row }
}

fn handlers(name: &'static str, events: u64, handlers: u64) -> Row {
    let row = echo(name, events, "");
    let in_flight = (IN_FLIGHT / usize::try_from(handlers).unwrap_or(1)).max(16);
    let (subject, load) = (Tidemill { handlers, in_flight, ..row.subject }, Load { subjects: handlers, ..row.load });
    Row { subject, load, ..row }
}

/// Measures a row: the hand-written consumer and tidemill in turn.
pub(crate) async fn measure(base: &Path, row: &Row, rounds: u32) -> Result<Outcome> {
    let (mut baselines, mut ours) = (Vec::new(), Vec::new());
    // As many consumers as tidemill has.
    let Tidemill { handlers, in_flight, .. } = row.subject;
    let baseline = Subject::Baseline { work: row.load.work, consumers: handlers, in_flight, dedup: row.baseline_dedup };
    let tidemill = Subject::Tidemill(row.subject.clone());
    for _ in 0..rounds {
        baselines.push(drain(base, &baseline, &row.load).await.context("the hand-written consumer")?);
        ours.push(drain(base, &tidemill, &row.load).await.with_context(|| row.name)?);
    }
    Ok(Outcome {
        name: row.name,
        goal: row.goal,
        baseline: Spread::of(baselines.iter().map(|one| one.rate)),
        tidemill: Spread::of(ours.iter().map(|one| one.rate)),
        ratio: Spread::of(ours.iter().zip(&baselines).map(|(ours, baseline)| ours.rate / baseline.rate)),
        baseline_cpu: Cpu::of(&baselines),
        tidemill_cpu: Cpu::of(&ours),
    })
}

/// How long an event takes that is alone on its way, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Alone {
    pub(crate) p50: Pair,
    pub(crate) p99: Pair,
}

/// One quantile of both, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) baseline: Spread,
    pub(crate) tidemill: Spread,
    /// The difference, in each pair of measurements.
    pub(crate) added: Spread,
}

/// Measures latency with one event in flight.
pub(crate) async fn alone(base: &Path, events: u64, rounds: u32) -> Result<Alone> {
    let (mut baselines, mut ours) = (Vec::new(), Vec::new());
    let baseline = Subject::hand_written(Work::Echo);
    let tidemill = Subject::Tidemill(Tidemill::of("echo", ""));
    let load = Load::of(Work::Echo, events);
    for _ in 0..rounds {
        baselines.push(latency(base, &baseline, &load, Pace::InFlight(1)).await?);
        ours.push(latency(base, &tidemill, &load, Pace::InFlight(1)).await?);
    }
    let pair = |quantile: fn(&Latency) -> f64| Pair {
        baseline: Spread::of(baselines.iter().map(quantile)),
        tidemill: Spread::of(ours.iter().map(quantile)),
        added: Spread::of(ours.iter().zip(&baselines).map(|(ours, baseline)| quantile(ours) - quantile(baseline))),
    };
    Ok(Alone { p50: pair(|one| one.p50_us), p99: pair(|one| one.p99_us) })
}
