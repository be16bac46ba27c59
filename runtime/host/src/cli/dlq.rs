//! `tidemill dlq`: dead letters, looked at, replayed and discarded.

mod select;
mod show;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write as _;
use tidemill::broker::nats::shelf::{Reads, Shelf};
use tidemill::load::ManifestFile;
use tidemill::operate::OperateError;
use tidemill::operate::letters::{self, Entry, Place, Replayed};
use tidemill::operate::retries;
use tidemill_policy::decide::rfc3339;

use super::output::{columns, harmless};
use super::queues::{READS_MAX, Session, check_has_retries, failure, last_error, start, unanswered, when};
use super::{Done, Failure, Global, find_handler};
use select::Selection;

const EXAMPLES: &str = "\
A replayed event is attempted again by its handler, from attempt 1, with its id and its history; its dead letter is
deleted once that is confirmed. A number is the sequence of a dead letter; STREAM/NUMBER says which stream, where
dead letters are in several. Anything else is the id of an event; id:NUMBER is an id that is a number.

Examples:
  tidemill dlq list
  tidemill dlq show 12
  tidemill dlq replay 12 13
  tidemill dlq replay --handler welcome-email --all --reason timeout
  tidemill dlq discard order-17
  tidemill dlq discard --handler welcome-email --all --yes";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show dead letters, the newest first
    List {
        /// Only those of this handler
        handler: Option<String>,
        /// How many to show
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show all of a dead letter: where it came from, headers, payload, every failed attempt
    Show {
        /// The dead letter's sequence, or its event's id
        #[arg(value_name = "SEQ|ID")]
        which: String,
    },
    /// Have events attempted again
    Replay {
        #[command(flatten)]
        selection: Selection,
        /// Keep the dead letters
        #[arg(long)]
        keep: bool,
    },
    /// Remove dead letters for good
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Confirm that all are to be removed; needed with --all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Serialize)]
struct Listing {
    dead_letters: Vec<Shown>,
    /// How many there are in all.
    total: u64,
    /// Whether enough were read to find the newest ones.
    complete: bool,
}

/// A dead letter as it is shown in a list.
#[derive(Debug, Serialize)]
struct Shown {
    stream: String,
    sequence: u64,
    handler: String,
    id: String,
    reason: Option<String>,
    attempts: u32,
    replays: u32,
    dead_at: String,
    last_error: Option<String>,
}

/// What became of a dead letter.
#[derive(Debug, Serialize)]
struct Changed {
    stream: String,
    sequence: u64,
    handler: String,
    id: String,
    result: Change,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Replayed,
    ReplayedAndKept,
    ReplayedBefore,
    Discarded,
    Gone,
}

/// Does what the user asks for.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    let file = start(global)?;
    check(&file, &arguments.action)?;
    let mut session = Session::open(global, file, "dlq").await?;
    let parks = session.file.manifest.handlers.values().any(tidemill_policy::manifest::Handler::parks);
    if parks || matches!(arguments.action, Action::Replay { .. }) {
        let prefix = session.prefix().to_owned();
        session.nats.look_at_own(&prefix).await?;
    }
    match &arguments.action {
        Action::List { handler, limit } => list(global, &session, handler.as_deref(), *limit as usize).await,
        Action::Show { which } => show::run(global, &session, which).await,
        Action::Replay { selection, keep } => replay(global, &session, selection, *keep).await,
        Action::Discard { selection, .. } => discard(global, &session, selection).await,
    }
}

/// Checks what can be checked without a connection.
fn check(file: &ManifestFile, action: &Action) -> Done {
    match action {
        Action::List { handler: Some(name), .. } => find_handler(file, name).map(drop),
        Action::Replay { selection: Selection { handler: Some(name), .. }, .. } => {
            check_has_retries(find_handler(file, name)?)
        }
        Action::Discard { selection: Selection { handler: Some(name), .. }, yes } => {
            find_handler(file, name)?;
            let missing = format!("this removes dead letters of {name} for good; add --yes to do it");
            if *yes { Ok(()) } else { Err(Failure::usage(missing)) }
        }
        _ => Ok(()),
    }
}

/// The places of all dead letters, or of one handler's.
async fn places<'a>(session: &'a Session, handler: Option<&str>) -> Result<Vec<Place<'a>>, Failure> {
    let manifest = &session.file.manifest;
    let handler = handler.and_then(|name| manifest.handlers.get(name));
    letters::places(&session.nats, manifest, handler).await.map_err(unanswered)
}

async fn list(global: &Global, session: &Session, handler: Option<&str>, limit: usize) -> Done {
    let places = places(session, handler).await?;
    let reads = Reads::up_to(READS_MAX);
    let (mut found, mut total, mut complete) = (Vec::new(), 0, true);
    for place in &places {
        total += place.count().await.map_err(unanswered)?;
        let newest = place.newest(handler, limit, &reads).await.map_err(unanswered)?;
        found.extend(newest.items);
        complete &= newest.complete;
    }
    found.sort_by_key(|entry| std::cmp::Reverse((entry.stored_ms, entry.sequence)));
    found.truncate(limit);
    let listing = Listing { dead_letters: found.iter().map(Shown::of).collect(), total, complete };
    let several = letters::shelves(&places).len() > 1;
    global.out().show(&listing, || text(&found, &listing, several, session.now_ms));
    Ok(())
}

fn text(found: &[Entry], listing: &Listing, several: bool, now_ms: u64) -> String {
    let row = |entry: &Entry| {
        let letter = &entry.letter;
        [
            if several { entry.stream.clone() } else { String::new() },
            entry.sequence.to_string(),
            harmless(&entry.id, true),
            harmless(&entry.handler, true),
            harmless(letter.reason.as_deref().unwrap_or("?"), true),
            letter.arrival.attempt.to_string(),
            when(entry.stored_ms, now_ms),
            last_error(&letter.arrival.history.errors),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let titles = ["STREAM", "SEQ", "ID", "HANDLER", "REASON", "ATTEMPTS", "WHEN", "LAST ERROR"];
    let mut text = if found.is_empty() { "no dead letters\n".to_owned() } else { columns(titles, &rows) };
    if !listing.complete {
        let _ = writeln!(text, "only {READS_MAX} messages were read; there may be more");
    } else if (found.len() as u64) < listing.total && !found.is_empty() {
        let _ = writeln!(text, "the newest {} of {}; --limit shows more", found.len(), listing.total);
    }
    text
}

async fn replay(global: &Global, session: &Session, selection: &Selection, keep: bool) -> Done {
    let places = places(session, selection.handler.as_deref()).await?;
    let entries = select::select(&places, selection).await?;
    for entry in &entries {
        let place = format!("dead letter {} in {} is of handler {:?}", entry.sequence, entry.stream, entry.handler);
        let handler = session.file.manifest.handlers.get(&entry.handler).ok_or_else(|| {
            let why = match find_handler(&session.file, &entry.handler) {
                Err(Failure::Usage(why)) => why.to_string(),
                _ => String::new(),
            };
            Failure::usage(format!("{place}, but {why}; nothing was replayed"))
        })?;
        check_has_retries(handler)?;
    }
    let prefix = session.prefix();
    let retry_shelf = retries::open(&session.nats, prefix).await.map_err(unanswered)?;
    if retry_shelf.is_none() {
        let name = tidemill::broker::nats::streams::retry_stream(prefix);
        return Err(failure(&OperateError::NoRetryStream(name), 0, ""));
    }
    let shelves = letters::shelves(&places);
    let (mut changed, mut damaged) = (Vec::new(), Vec::new());
    for entry in entries {
        let shelf = shelf_of(&shelves, &entry)?;
        let replayed = letters::replay(shelf, &session.file.manifest, &entry, keep).await;
        let result = match replayed {
            Ok(Replayed::Sent) if keep => Change::ReplayedAndKept,
            Ok(Replayed::Sent) => Change::Replayed,
            Ok(Replayed::Repeated) => Change::ReplayedBefore,
            Ok(Replayed::Gone) => Change::Gone,
            // Those behind it are none the worse for it.
            Err(error @ OperateError::Unreplayable { .. }) => {
                damaged.push(error);
                continue;
            }
            Err(error) => return Err(failure(&error, changed.len(), "were replayed")),
        };
        changed.push(Changed::of(entry, result));
    }
    let Some((last, others)) = damaged.split_last() else {
        global.out().show(&changed, || Changed::text(&changed));
        return Ok(());
    };
    for error in others {
        tracing::error!("{error}");
    }
    Err(failure(last, changed.len(), "were replayed"))
}

async fn discard(global: &Global, session: &Session, selection: &Selection) -> Done {
    let places = places(session, selection.handler.as_deref()).await?;
    let shelves = letters::shelves(&places);
    let mut changed = Vec::new();
    for entry in select::select(&places, selection).await? {
        let deleted = letters::discard(shelf_of(&shelves, &entry)?, &session.file.manifest, &entry).await;
        let there = deleted.map_err(|error| failure(&error, changed.len(), "were discarded"))?;
        changed.push(Changed::of(entry, if there { Change::Discarded } else { Change::Gone }));
    }
    global.out().show(&changed, || Changed::text(&changed));
    Ok(())
}

fn shelf_of<'a, 'b>(
    shelves: &std::collections::BTreeMap<&'b str, &'b Shelf<'a>>,
    entry: &Entry,
) -> Result<&'b Shelf<'a>, Failure> {
    let found = shelves.get(entry.stream.as_str()).copied();
    found.ok_or_else(|| Failure::Failed(anyhow!("stream {} is gone", entry.stream)))
}

impl Shown {
    fn of(entry: &Entry) -> Shown {
        let letter = &entry.letter;
        let error = letter.arrival.history.errors.last();
        Shown {
            stream: entry.stream.clone(),
            sequence: entry.sequence,
            handler: entry.handler.clone(),
            id: entry.id.clone(),
            reason: letter.reason.clone(),
            attempts: letter.arrival.attempt.get(),
            replays: letter.arrival.epoch,
            dead_at: letter.dead_at.clone().unwrap_or_else(|| rfc3339(entry.stored_ms)),
            last_error: error.map(|error| error.message.clone()),
        }
    }
}

impl Changed {
    fn of(entry: Entry, result: Change) -> Changed {
        let Entry { stream, sequence, handler, id, .. } = entry;
        Changed { stream, sequence, handler, id, result }
    }

    fn text(all: &[Changed]) -> String {
        let line = |one: &Changed| {
            let what = match one.result {
                Change::Replayed => "is attempted again",
                Change::ReplayedAndKept => "is attempted again; its dead letter is kept",
                Change::ReplayedBefore => "was replayed before, and is on its way or handled; it is not run once more",
                Change::Discarded => "was discarded",
                Change::Gone => "was gone already",
            };
            format!("{} ({}, {}) {what}\n", one.sequence, harmless(&one.handler, true), harmless(&one.id, true))
        };
        if all.is_empty() { "no such dead letters".to_owned() } else { all.iter().map(line).collect() }
    }
}
