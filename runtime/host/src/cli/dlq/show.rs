//! All of a dead letter.

use anyhow::anyhow;
use serde::Serialize;
use std::fmt::Write as _;
use tidemill::operate::letters::Entry;
use tidemill_policy::decide::rfc3339;
use tidemill_policy::event::Headers;
use tidemill_policy::history::AttemptError;

use super::super::output::{Payload, harmless, table};
use super::super::queues::{Session, unanswered, when};
use super::super::{Done, Failure, Global};
use super::select::named;
use super::{Shown, places};

#[derive(Debug, Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    listed: Shown,
    origin: Origin<'a>,
    component: Option<&'a str>,
    seed: Option<&'a str>,
    clock_ms: Option<u64>,
    correlation_id: Option<&'a str>,
    causation_id: Option<&'a str>,
    /// What is wrong with the dead letter itself.
    damage: Option<&'a str>,
    headers: &'a Headers,
    headers_dropped: u32,
    #[serde(flatten)]
    payload: Payload,
    errors: &'a [AttemptError],
    errors_dropped: u32,
}

#[derive(Debug, Serialize)]
struct Origin<'a> {
    stream: &'a str,
    sequence: u64,
    subject: &'a str,
    time: String,
}

/// Shows a dead letter.
pub(super) async fn run(global: &Global, session: &Session, which: &str) -> Done {
    let places = places(session, None).await?;
    let mut found = named(&places, &[which.to_owned()]).await?;
    if found.len() > 1 {
        let all: Vec<_> = found.iter().map(|entry| format!("{}/{}", entry.stream, entry.sequence)).collect();
        return Err(Failure::usage(format!(
            "there are several dead letters of {which:?}; say which: {}",
            all.join(", ")
        )));
    }
    let (stream, sequence) = match found.pop() {
        Some(entry) => (entry.stream, entry.sequence),
        None => return Err(Failure::Failed(anyhow!("there is no dead letter {which}"))),
    };
    // Read again: what is found by an id comes without its payload.
    let mut entry = None;
    for place in places.iter().filter(|place| place.shelf.stream == stream) {
        entry = entry.or(place.at(sequence).await.map_err(unanswered)?);
    }
    let entry = entry.ok_or_else(|| anyhow!("dead letter {sequence} in {stream} has just been removed"))?;
    global.out().show(&whole(&entry), || text(&entry, session.now_ms));
    Ok(())
}

fn whole(entry: &Entry) -> Whole<'_> {
    let letter = &entry.letter;
    let arrival = &letter.arrival;
    Whole {
        listed: Shown::of(entry),
        origin: Origin {
            stream: &arrival.origin.stream,
            sequence: arrival.origin.sequence,
            subject: &arrival.origin.subject,
            time: rfc3339(arrival.origin.time_ms),
        },
        component: letter.component.as_deref(),
        seed: letter.seed.as_deref(),
        clock_ms: letter.clock_ms,
        correlation_id: arrival.correlation_id.as_deref(),
        causation_id: arrival.causation_id.as_deref(),
        damage: arrival.damage.as_deref(),
        headers: &arrival.headers,
        headers_dropped: arrival.headers_dropped,
        payload: Payload::of(&arrival.payload),
        errors: &arrival.history.errors,
        errors_dropped: arrival.history.dropped,
    }
}

fn text(entry: &Entry, now_ms: u64) -> String {
    let letter = &entry.letter;
    let arrival = &letter.arrival;
    let origin = &arrival.origin;
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let replays = if letter.arrival.epoch > 0 {
        format!(", replayed {} times before", letter.arrival.epoch)
    } else {
        String::new()
    };
    let mut headers: Vec<_> = arrival.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if arrival.headers_dropped > 0 {
        headers.push(format!("({} more were left out, because all together were too large)", arrival.headers_dropped));
    }
    let rows = [
        ("dead letter", format!("{} in {}", entry.sequence, entry.stream)),
        ("event", entry.id.clone()),
        ("handler", entry.handler.clone()),
        ("reason", format!("{} at attempt {}{replays}", letter.reason.as_deref().unwrap_or("?"), arrival.attempt)),
        ("when", format!("{} ({})", rfc3339(entry.stored_ms), when(entry.stored_ms, now_ms))),
        ("origin", format!("{} in {}, subject {}", origin.sequence, origin.stream, origin.subject)),
        ("stored", rfc3339(origin.time_ms)),
        ("correlation", optional(&arrival.correlation_id)),
        ("caused by", optional(&arrival.causation_id)),
        ("component", optional(&letter.component)),
        ("seed", optional(&letter.seed)),
        ("clock", letter.clock_ms.map(|clock_ms| clock_ms.to_string()).unwrap_or_default()),
        ("damage", optional(&arrival.damage)),
        ("headers", headers.join("\n")),
        ("payload", Payload::of(&arrival.payload).text()),
    ];
    let rows = rows.map(|(label, text)| (label, harmless(&text, false)));
    format!("{}{}", table(rows), errors_text(entry))
}

fn errors_text(entry: &Entry) -> String {
    let history = &entry.letter.arrival.history;
    let mut text = String::new();
    for (index, error) in history.errors.iter().enumerate() {
        let code = error.status_code.map_or_else(String::new, |code| format!(" (code {code})"));
        let _ = write!(
            text,
            "\nattempt {} at {}: {}{code}: {}\n  {} ms, fuel {}, memory {} bytes, component {}, instance {}\n",
            error.attempt,
            error.date,
            error.kind,
            error.message.trim_end(),
            error.duration_ms,
            error.fuel_used,
            error.memory_peak,
            error.component,
            error.instance,
        );
        for line in error.stack_trace.iter().flat_map(|trace| trace.lines()) {
            let _ = writeln!(text, "  {line}");
        }
        if index == 0 && history.dropped > 0 {
            let _ = write!(text, "\n({} more failures were left out)\n", history.dropped);
        }
    }
    harmless(&text, false)
}
