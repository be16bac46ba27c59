//! `tidemill retry`: the retries that wait, looked at, brought forward and dropped.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use tidemill::broker::nats::shelf::{Reads, Shelf};
use tidemill::operate::OperateError;
use tidemill::operate::retries::{self, Hurried, Retry};

use super::output::{columns, harmless};
use super::queues::{READS_MAX, Session, check_has_retries, failure, last_error, start, timestamp, unanswered, when};
use super::{Done, Failure, Global, find_handler};

const EXAMPLES: &str = "\
Examples:
  tidemill retry list
  tidemill retry list welcome-email --output json
  tidemill retry now welcome-email order-17
  tidemill retry now welcome-email --all
  tidemill retry drop welcome-email order-17";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the retries that wait, in the order in which they are due
    List {
        /// Only those of this handler
        handler: Option<String>,
        /// How many to show
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Make retries due now
    Now(Selection),
    /// Remove retries for good: their events are not attempted again
    Drop {
        #[command(flatten)]
        selection: Selection,
        /// Confirm that all are to be removed; needed with --all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Selection {
    /// The handler's name in the manifest
    handler: String,
    /// The events' ids, as `retry list` shows them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All retries of the handler
    #[arg(long)]
    all: bool,
}

/// A retry as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    handler: String,
    sequence: u64,
    /// The attempt that is due.
    attempt: u32,
    /// `None` where it is due already.
    due: Option<String>,
    last_error: Option<ErrorShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Change>,
}

/// What became of a retry.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Now,
    AlreadyDue,
    Dropped,
    Gone,
}

#[derive(Debug, Serialize)]
struct ErrorShown {
    kind: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct Listing {
    retries: Vec<Shown>,
    /// How many there are in all, as far as they were read.
    total: usize,
    complete: bool,
}

/// Does what the user asks for.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    let file = start(global)?;
    let named = match &arguments.action {
        Action::List { handler, .. } => handler.as_ref(),
        Action::Now(selection) | Action::Drop { selection, .. } => Some(&selection.handler),
    };
    if let Some(name) = named {
        check_has_retries(find_handler(&file, name)?)?;
    }
    if let Action::Drop { selection: Selection { all: true, handler, .. }, yes: false } = &arguments.action {
        return Err(Failure::usage(format!("this removes all retries of {handler} for good; add --yes to do it")));
    }
    let session = Session::open(global, file, "retry").await?;
    match &arguments.action {
        Action::List { handler, limit } => list(global, &session, handler.as_deref(), *limit as usize).await,
        Action::Now(selection) => change(global, &session, selection, "brought forward").await,
        Action::Drop { selection, .. } => change(global, &session, selection, "dropped").await,
    }
}

async fn list(global: &Global, session: &Session, handler: Option<&str>, limit: usize) -> Done {
    let shelf = retries::open(&session.nats, session.prefix()).await.map_err(unanswered)?;
    let (mut found, mut complete) = (Vec::new(), true);
    if let Some(shelf) = &shelf {
        let reads = Reads::up_to(READS_MAX);
        let listed = retries::list(shelf, session.prefix(), handler, &reads).await.map_err(unanswered)?;
        (found, complete) = (listed.items, listed.complete);
    }
    let total = found.len();
    found.truncate(limit);
    let listing = Listing { retries: found.iter().map(|retry| Shown::of(retry, None)).collect(), total, complete };
    global.out().show(&listing, || text(&found, total, complete, session.now_ms));
    Ok(())
}

fn text(found: &[Retry], total: usize, complete: bool, now_ms: u64) -> String {
    if found.is_empty() {
        return "no retries wait".to_owned();
    }
    let row = |retry: &Retry| {
        let arrival = &retry.waiting.arrival;
        [
            harmless(&retry.id, true),
            harmless(&retry.handler, true),
            arrival.attempt.to_string(),
            retry.waiting.due_ms.map_or_else(|| "now".to_owned(), |due_ms| due(due_ms, now_ms)),
            last_error(&arrival.history.errors),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let mut text = columns(["ID", "HANDLER", "ATTEMPT", "DUE", "LAST ERROR"], &rows);
    if !complete {
        let _ = writeln!(text, "only {total} were read; there are more");
    }
    if found.len() < total {
        let _ = writeln!(text, "{} of {total}; --limit shows more", found.len());
    }
    text
}

fn due(due_ms: u64, now_ms: u64) -> String {
    if due_ms <= now_ms { "now".to_owned() } else { when(due_ms, now_ms) }
}

/// Brings forward or drops what the user selects.
async fn change(global: &Global, session: &Session, selection: &Selection, what: &'static str) -> Done {
    let none = || Failure::Failed(anyhow!("no retries of {} wait", selection.handler));
    let mut changed = Vec::new();
    if let Some(shelf) = retries::open(&session.nats, session.prefix()).await.map_err(unanswered)? {
        for retry in select(&shelf, session.prefix(), selection).await? {
            let result = match what {
                "dropped" => drop_one(session, &shelf, &retry).await,
                _ => hurry_one(session, &shelf, &retry).await,
            };
            let result = result.map_err(|error| failure(&error, changed.len(), what))?;
            changed.push(Shown::of(&retry, Some(result)));
        }
    } else if !selection.all {
        return Err(none());
    }
    global.out().show(&changed, || {
        let line = |shown: &Shown| {
            let result = shown.result.map_or("", Change::text);
            format!("{}: attempt {} {result}\n", harmless(&shown.id, true), shown.attempt)
        };
        if changed.is_empty() { "no retries wait".to_owned() } else { changed.iter().map(line).collect() }
    });
    Ok(())
}

/// The retries that the user names. Where one is missing, nothing is done.
async fn select(shelf: &Shelf<'_>, prefix: &str, selection: &Selection) -> Result<Vec<Retry>, Failure> {
    let handler = &selection.handler;
    let reads = Reads::up_to(usize::MAX);
    let mut found = retries::list(shelf, prefix, Some(handler), &reads).await.map_err(unanswered)?.items;
    if selection.all {
        return Ok(found);
    }
    let wanted: BTreeSet<_> = selection.ids.iter().collect();
    found.retain(|retry| wanted.contains(&retry.id));
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|id| found.iter().all(|retry| retry.id != **id))
        .map(|id| format!("{id:?}"))
        .collect();
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Failure::Failed(anyhow!(
        "no retry of {} waits for handler {handler}, so nothing was done; see `tidemill retry list {handler}`, and \
         `tidemill dlq list {handler}` for what was given up on",
        missing.join(", ")
    )))
}

async fn hurry_one(session: &Session, shelf: &Shelf<'_>, retry: &Retry) -> Result<Change, OperateError> {
    Ok(match retries::hurry(shelf, session.prefix(), retry, session.now_ms).await? {
        Hurried::Now => Change::Now,
        Hurried::Already => Change::AlreadyDue,
    })
}

async fn drop_one(session: &Session, shelf: &Shelf<'_>, retry: &Retry) -> Result<Change, OperateError> {
    Ok(if retries::drop(shelf, session.prefix(), retry).await? { Change::Dropped } else { Change::Gone })
}

impl Change {
    fn text(self) -> &'static str {
        match self {
            Change::Now => "is due now",
            Change::AlreadyDue => "was due already",
            Change::Dropped => "was dropped",
            Change::Gone => "was gone already",
        }
    }
}

impl Shown {
    fn of(retry: &Retry, result: Option<Change>) -> Shown {
        let arrival = &retry.waiting.arrival;
        let error = |error: &tidemill_policy::history::AttemptError| ErrorShown {
            kind: error.kind.name(),
            message: error.message.clone(),
        };
        Shown {
            id: retry.id.clone(),
            handler: retry.handler.clone(),
            sequence: retry.sequence,
            attempt: arrival.attempt.get(),
            due: timestamp(retry.waiting.due_ms),
            last_error: arrival.history.errors.last().map(error),
            result,
        }
    }
}
