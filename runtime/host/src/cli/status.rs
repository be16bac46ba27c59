//! `tidemill status`: how the events of all handlers stand, and which instances run.

mod instances;

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tidemill::broker::nats::shelf::Reads;
use tidemill::operate;
use tidemill::operate::overview::{self, Overview, Retries};

use super::queues::{READS_MAX, Session, coarse, start, timestamp, unanswered, when};
use super::{Done, Global, breaker, output};

const EXAMPLES: &str = "\
Waiting and in flight are what the handler's consumers say of its input stream. Retries are in the retry stream,
dead letters on the handler's dead-letter subject. No instance needs to run. Those that do are asked how they are:
they are all that answer with the same nats.prefix, and count since they were started.

Examples:
  tidemill status
  tidemill status --output json --nats-url nats://10.0.0.1:4222";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {}

/// How one handler's events stand.
#[derive(Debug, Serialize)]
struct Row {
    handler: String,
    /// `None` where no stream stores the handler's subject.
    stream: Option<String>,
    /// How many consumers there are: one, or in broadcast mode one for each instance.
    consumers: u32,
    /// `None` where there is no consumer, so that nobody counts.
    waiting: Option<u64>,
    in_flight: Option<u64>,
    /// `None` in broadcast mode: retries wait in the instances.
    retries: Option<RetriesShown>,
    dead_letters: LettersShown,
    /// `None` in broadcast mode, which has none.
    breaker: Option<breaker::Shown>,
    /// The instances that run it; `None` where they could not be asked.
    instances: Option<Vec<Value>>,
    #[serde(skip)]
    shown: [String; 6],
}

#[derive(Debug, Serialize)]
struct RetriesShown {
    waiting: u64,
    due: u64,
    earliest: Option<String>,
    latest: Option<String>,
    /// Whether all retries were read, which the times need.
    complete: bool,
}

#[derive(Debug, Serialize)]
struct LettersShown {
    count: u64,
    newest: Option<String>,
}

/// Shows how all handlers stand.
pub(crate) async fn run(global: &Global, _: &Arguments) -> Done {
    let mut session = Session::open(global, start(global)?, "status").await?;
    let prefix = session.prefix().to_owned();
    session.nats.look_at_own(&prefix).await?;
    let reads = Reads::up_to(READS_MAX);
    let all = overview::overview(&session.nats, &session.file.manifest, &reads, session.now_ms).await;
    let mut rows: Vec<_> =
        all.map_err(unanswered)?.into_iter().map(|(name, one)| row(name, &one, session.now_ms)).collect();
    for breaker in breaker::all(&session).await? {
        if let Some(row) = rows.iter_mut().find(|row| breaker.is_of(&row.handler)) {
            row.breaker = Some(breaker);
        }
    }
    let found = operate::instances::find(&session.nats, &prefix).await;
    for row in &mut rows {
        row.instances = found.as_ref().ok().map(|found| instances::of_handler(found, &row.handler));
    }
    global.out().show(&rows, || format!("{}\n{}", text(&rows), instances::text(&found)));
    Ok(())
}

fn row(handler: String, one: &Overview, now_ms: u64) -> Row {
    let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let (waiting, in_flight) = (one.input.map(|input| input.waiting), one.input.map(|input| input.in_flight));
    let newest =
        one.letters.newest_ms.map_or_else(String::new, |newest_ms| format!(", newest {}", when(newest_ms, now_ms)));
    let shown = [
        handler.clone(),
        one.stream.clone().unwrap_or_else(|| "none".to_owned()),
        count(waiting),
        count(in_flight),
        one.retries.map_or_else(|| "in the instances".to_owned(), |retries| retries_text(&retries, now_ms)),
        format!("{}{newest}", one.letters.count),
    ];
    Row {
        handler,
        stream: one.stream.clone(),
        consumers: one.input.map_or(0, |input| input.consumers),
        waiting,
        in_flight,
        retries: one.retries.map(|retries| RetriesShown {
            waiting: retries.waiting,
            due: retries.due,
            earliest: timestamp(retries.earliest_ms),
            latest: timestamp(retries.latest_ms),
            complete: retries.complete,
        }),
        dead_letters: LettersShown { count: one.letters.count, newest: timestamp(one.letters.newest_ms) },
        breaker: None,
        instances: None,
        shown,
    }
}

/// `4, in 3m to 2h; 1 due`
fn retries_text(retries: &Retries, now_ms: u64) -> String {
    let mut text = retries.waiting.to_string();
    if let (Some(earliest_ms), Some(latest_ms)) = (retries.earliest_ms, retries.latest_ms) {
        let earliest = when(earliest_ms, now_ms);
        let latest = coarse(Duration::from_millis(latest_ms.saturating_sub(now_ms)));
        let _ = write!(text, ", {earliest}");
        if !earliest.ends_with(&latest) {
            let _ = write!(text, " to {latest}");
        }
    }
    if retries.due > 0 {
        let _ = write!(text, "; {} due", retries.due);
    }
    if !retries.complete {
        text.push_str(" (*)");
    }
    text
}

fn text(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(|row| row.shown.clone()).collect();
    let titles = ["HANDLER", "STREAM", "WAITING", "IN FLIGHT", "RETRIES", "DEAD LETTERS"];
    let mut text = output::columns(titles, &cells);
    if rows.iter().any(|row| row.retries.as_ref().is_some_and(|retries| !retries.complete)) {
        let _ = writeln!(text, "(*) there are more than the {READS_MAX} retries that were read for their times");
    }
    for breaker in rows.iter().filter_map(|row| row.breaker.as_ref()).filter(|breaker| !breaker.is_closed()) {
        let [handler, state, since, reason] = &breaker.text;
        let _ = writeln!(text, "{handler}: the circuit breaker is {state}, since {since}: {reason}");
    }
    for row in rows.iter().filter(|row| row.waiting.is_none()) {
        let why = match &row.stream {
            Some(stream) => format!("no consumer on stream {stream} yet; it is made when an instance starts"),
            None => "no stream stores its subject".to_owned(),
        };
        let _ = writeln!(text, "{}: {why}: tidemill run", row.handler);
    }
    text
}
