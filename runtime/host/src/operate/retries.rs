//! Retries that wait in the retry stream.

use bytes::Bytes;
use tidemill_policy::publication::retry_due_filters;
use tidemill_policy::replay::{self, Waiting};

use super::{OperateError, event_id};
use crate::broker::PublishError;
use crate::broker::nats::ask::AskError;
use crate::broker::nats::shelf::{Found, Kept, Reads, Shelf};
use crate::broker::nats::streams::{retry_consumer, retry_stream};
use crate::broker::nats::{Nats, publish};

/// A retry that is handed back until it is due is left alone so short before: it may run by the time its copy is
/// there.
const SOON_MS: u64 = 500;

/// A retry in the retry stream.
#[derive(Debug, Clone)]
pub struct Retry {
    /// The event's id.
    pub id: String,
    /// The handler.
    pub handler: String,
    /// Where it is in the retry stream.
    pub sequence: u64,
    /// Whether the server holds it back and delivers it when it is due.
    pub scheduled: bool,
    /// What it says, without its payload.
    pub waiting: Waiting,
}

/// What became of a retry that was to be brought forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurried {
    /// It is due now.
    Now,
    /// It was due already, or somebody else was faster.
    Already,
}

/// The retry stream; nothing where no instance has made it yet, so that nothing waits.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn open<'a>(nats: &'a Nats, prefix: &str) -> Result<Option<Shelf<'a>>, AskError> {
    Shelf::open(nats, &retry_stream(prefix)).await
}

/// The retries that wait, of one handler or of all, in the order in which they are due.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn list(
    shelf: &Shelf<'_>,
    prefix: &str,
    handler: Option<&str>,
    reads: &Reads,
) -> Result<Found<Retry>, AskError> {
    let mut all = Found { items: Vec::new(), complete: true };
    for filter in filters(prefix, handler) {
        let found = shelf.scan(&filter, reads, |kept| Some(read(prefix, kept))).await?;
        all.items.extend(found.items);
        all.complete &= found.complete;
    }
    all.items.sort_by_key(|retry| (retry.waiting.due_ms, retry.sequence));
    Ok(all)
}

/// How many retries of a handler there are in the retry stream, due or not.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn count(nats: &Nats, prefix: &str, handler: &str) -> Result<u64, AskError> {
    let Some(shelf) = open(nats, prefix).await? else { return Ok(0) };
    let scheduled = shelf.subjects(&scheduled_subjects(prefix, handler)).await?;
    Ok(scheduled + unscheduled(&shelf, prefix, handler).await?)
}

/// How many retries of a handler there are that the server does not hold back.
pub(super) async fn unscheduled(shelf: &Shelf<'_>, prefix: &str, handler: &str) -> Result<u64, AskError> {
    let [shared, of_events] = retry_due_filters(prefix, handler);
    let shared: u64 = shelf.counts(&shared).await?.values().sum();
    Ok(shared + shelf.subjects(&of_events).await?)
}

fn filters(prefix: &str, handler: Option<&str>) -> Vec<String> {
    match handler {
        Some(handler) => {
            let [shared, of_events] = retry_due_filters(prefix, handler);
            vec![scheduled_subjects(prefix, handler), shared, of_events]
        }
        None => vec![format!("{prefix}.retry.>")],
    }
}

/// The subjects of a handler's retries that the server holds back: one for each event.
pub(super) fn scheduled_subjects(prefix: &str, handler: &str) -> String {
    format!("{prefix}.retry.at.{handler}.*")
}

fn read(prefix: &str, kept: Kept) -> Retry {
    let sequence = kept.position.sequence;
    // `<prefix>.retry.at.<handler>.<event>` or `<prefix>.retry.due.<handler>.<event>`.
    let rest = kept.message.subject.get(prefix.len()..).unwrap_or_default();
    let handler = rest.split('.').nth(3).unwrap_or_default().to_owned();
    let scheduled = replay::is_scheduled(&kept.message);
    let mut waiting = replay::waiting(kept.message, kept.position);
    waiting.arrival.payload = Bytes::new();
    Retry { id: event_id(&waiting.arrival), handler, sequence, scheduled, waiting }
}

/// Makes a waiting retry due now. It is run once: where it becomes due by itself at the same time, the server
/// refuses the second one.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn hurry(shelf: &Shelf<'_>, prefix: &str, retry: &Retry, now_ms: u64) -> Result<Hurried, OperateError> {
    let Some(Kept { message, position }) = shelf.at(retry.sequence).await? else { return Ok(Hurried::Already) };
    let scheduled = replay::is_scheduled(&message);
    let is_soon = |due_ms: u64| due_ms <= now_ms.saturating_add(SOON_MS);
    if !scheduled && retry.waiting.due_ms.is_none_or(is_soon) {
        return Ok(Hurried::Already);
    }
    let sooner = replay::hurry(&message, &position, prefix, &retry.handler);
    match publish::publish_one(shelf.nats, &sooner).await {
        Ok(_) if scheduled => Ok(Hurried::Now),
        Ok(_) => {
            delete(shelf, retry.sequence).await?;
            release(shelf, prefix, retry).await?;
            Ok(Hurried::Now)
        }
        // The server refuses where the retry that it holds back is not the one that was read.
        Err(PublishError::Unavailable { .. }) if shelf.at(retry.sequence).await?.is_none() => Ok(Hurried::Already),
        Err(fault) => Err(fault.into()),
    }
}

/// Removes a retry for good. Returns whether it was still there.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn drop(shelf: &Shelf<'_>, prefix: &str, retry: &Retry) -> Result<bool, AskError> {
    let was_there = shelf.delete(retry.sequence).await?;
    release(shelf, prefix, retry).await?;
    Ok(was_there)
}

/// Settles a deleted retry that its consumer has in flight, because it is handed back until it is due: else it
/// would count as in flight until then.
async fn release(shelf: &Shelf<'_>, prefix: &str, retry: &Retry) -> Result<(), AskError> {
    if retry.scheduled {
        return Ok(());
    }
    let (stream, sequence) = (&shelf.stream, retry.sequence);
    let consumer = retry_consumer(prefix, &retry.handler);
    // The server finds a delivery by its stream sequence; the other numbers are not looked at.
    let subject = format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.1.0.0");
    let sent = shelf.nats.client.publish(subject.clone(), "+ACK".into()).await;
    sent.map_err(|error| AskError::NoAnswer { subject, why: error.to_string() })
}

/// Deletes a message that was published anew.
pub(super) async fn delete(shelf: &Shelf<'_>, sequence: u64) -> Result<(), OperateError> {
    match shelf.delete(sequence).await {
        Ok(_) => Ok(()),
        Err(source) => Err(OperateError::NotDeleted { stream: shelf.stream.clone(), sequence, source }),
    }
}
