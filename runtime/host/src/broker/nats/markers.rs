//! Markers: a key-value bucket, written by compare-and-set.
//!
//! A bucket without replicas is read by direct gets. Of one with replicas any answers those, also one that is behind, and
//! is asked first if it is on the server that we are connected to: then an event that has just ended would be run again,
//! and one would overtake the event that its key is parked behind. Writing would not notice: what is found to be done or parked is
//! not written. So the leader is asked there.
//!
//! How any server is asked is in [`super::lookups`]. The client's own key-value store is not used for writing, because its update has no time to live.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use tidemill_policy::marker::Marker;

use super::ask::AskError;
use super::confirm::{self, Unconfirmed};
use super::{Nats, ask, lookups, streams};
use crate::broker::{MarkerError, Recalled, Stored};
use crate::troubles::Effect;

/// The shortest time to live that the server knows.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// The name of the bucket.
pub fn bucket(prefix: &str) -> String {
    format!("{prefix}_done")
}

/// The name of the stream that holds the bucket.
pub fn stream(prefix: &str) -> String {
    stream_of(&bucket(prefix))
}

pub(super) fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject of a key in a bucket.
pub fn subject(bucket: &str, key: &str) -> String {
    ["$KV.", bucket, ".", key].concat()
}

/// Reads a marker. That markers cannot be reached is a trouble until they can.
///
/// # Errors
/// Where the server does not answer.
pub async fn recall(nats: &Nats, key: &str) -> Result<Recalled, MarkerError> {
    let Stored { value, revision } = read(nats, key).await?;
    let marker = value.and_then(|value| {
        let unreadable = |error| tracing::error!(key, %error, "a marker cannot be read, and is taken for none");
        serde_json::from_slice(&value).map_err(unreadable).ok()
    });
    Ok(Recalled { marker, revision })
}

/// Writes a marker if its revision is still `revision`, and returns the new one. That markers cannot be reached is
/// a trouble until they can.
///
/// # Errors
/// Where the revision is another one, or the server does not confirm.
pub async fn remember(
    nats: &Nats,
    key: &str,
    marker: &Marker,
    lifetime: Duration,
    revision: u64,
) -> Result<u64, MarkerError> {
    let value = serde_json::to_vec(marker).map_err(|error| MarkerError::Unavailable(error.to_string()))?;
    replace(nats, key, value.into(), lifetime, revision).await
}

/// Reads what is kept under a key of the bucket.
///
/// # Errors
/// Where the server does not answer.
pub async fn read(nats: &Nats, key: &str) -> Result<Stored, MarkerError> {
    let stored = if nats.bucket_is_replicated {
        Box::pin(ask_leader(nats, key)).await
    } else {
        lookups::look_up(nats, key).await
    };
    tell(nats, Use::Read, stored).await
}

/// Replaces what is kept under a key of the bucket if its revision is still `revision`, and returns the new one.
///
/// # Errors
/// Where the revision is another one, or the server does not confirm.
pub async fn replace(
    nats: &Nats,
    key: &str,
    value: Bytes,
    lifetime: Duration,
    revision: u64,
) -> Result<u64, MarkerError> {
    let written = write(nats, key, value, lifetime, revision).await;
    tell(nats, Use::Write, written).await
}

/// The record that says since when markers of events have their present names. Those of the version before live on
/// beside them, for as long as they were to.
const NAMED_SINCE: &str = "names.2";
/// For how long that is remembered: longer than any marker of the version before lives.
const NAMED_SINCE_LIFETIME: Duration = Duration::from_hours(24 * 365 * 2);

/// Since when markers of events have their present names, in milliseconds since the Unix epoch; 0 where they always had.
/// Where that is not known yet, it is noted.
///
/// # Errors
/// Where the server does not answer.
pub async fn named_since_ms(nats: &Nats, now_ms: u64) -> Result<u64, MarkerError> {
    let Stored { value, revision } = read(nats, NAMED_SINCE).await?;
    if let Some(since_ms) = value.and_then(|value| serde_json::from_slice(&value).ok()) {
        return Ok(since_ms);
    }
    let stream = nats.context.get_stream(stream_of(&nats.bucket)).await;
    let is_new = stream.is_ok_and(|stream| stream.cached_info().state.messages == 0);
    let since_ms = if is_new { 0 } else { now_ms };
    let written = replace(nats, NAMED_SINCE, since_ms.to_string().into(), NAMED_SINCE_LIFETIME, revision).await;
    match written {
        // Another instance was faster.
        Ok(_) | Err(MarkerError::Conflict) => Ok(since_ms),
        Err(error) => Err(error),
    }
}

/// Why a marker was not read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its revision is another one.
    Conflict,
    /// There is no bucket, or it has no leader.
    Nobody(String),
    /// There is no answer, or none that helps.
    Unavailable(String),
}

/// What markers are reached for. A bucket that can be read may refuse what is written.
#[derive(Debug, Clone, Copy)]
enum Use {
    Read,
    Write,
}

/// Makes a trouble of markers that cannot be reached, and the bucket anew if somebody has deleted it.
async fn tell<T>(nats: &Nats, what: Use, result: Result<T, Fault>) -> Result<T, MarkerError> {
    let (why, is_gone) = match result {
        Ok(value) => {
            if !nats.link.troubles.are_none() {
                nats.link.troubles.end(&trouble(nats, what));
            }
            return Ok(value);
        }
        Err(Fault::Conflict) => {
            nats.link.troubles.end(&trouble(nats, what));
            return Err(MarkerError::Conflict);
        }
        Err(Fault::Nobody(why)) => (why, true),
        Err(Fault::Unavailable(why)) => (why, false),
    };
    // Boxed, since it is large and rare.
    Box::pin(complain(nats, what, &why, is_gone)).await;
    Err(MarkerError::Unavailable(why))
}

async fn complain(nats: &Nats, what: Use, why: &str, is_gone: bool) {
    // Where the connection was interrupted, that is the trouble.
    if !nats.link.is_up() {
        return;
    }
    let why = format!("{why}; events are held until it works");
    nats.link.troubles.begin(&trouble(nats, what), Effect::Publishing, &why);
    if is_gone && let Err(error) = streams::restore(nats, Some(&stream_of(&nats.bucket))).await {
        tracing::debug!(%error, "could not make the bucket of markers anew");
    }
}

fn trouble(nats: &Nats, what: Use) -> String {
    match what {
        Use::Read => format!("markers in bucket {}", nats.bucket),
        Use::Write => format!("new markers in bucket {}", nats.bucket),
    }
}

/// Reads a marker for an operator, whose connection is not set up for many.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn recall_as_operator(nats: &Nats, key: &str) -> Result<Option<Marker>, AskError> {
    let Some(kept) = ask::found(kept_by_leader(nats, key).await)? else { return Ok(None) };
    let value = data_encoding::BASE64.decode(kept.data.as_bytes()).unwrap_or_default();
    Ok(serde_json::from_slice(&value).ok())
}

async fn kept_by_leader(nats: &Nats, key: &str) -> Result<ask::Kept, AskError> {
    let question = serde_json::json!({ "last_by_subj": subject(&nats.bucket, key) });
    ask::message(nats, &stream_of(&nats.bucket), &question).await
}

/// Asks the leader of the bucket, which has all that was ever confirmed.
async fn ask_leader(nats: &Nats, key: &str) -> Result<Stored, Fault> {
    let answer = match kept_by_leader(nats, key).await {
        Ok(answer) => answer,
        Err(AskError::NoMessage(_)) => return Ok(Stored::default()),
        Err(AskError::NotFound(why)) => return Err(Fault::Nobody(why)),
        Err(error) => return Err(Fault::Unavailable(error.to_string())),
    };
    let unreadable = |error: data_encoding::DecodeError| Fault::Unavailable(error.to_string());
    let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).map_err(unreadable);
    let headers = decode(&answer.hdrs)?;
    // A key that somebody deleted by hand has a message that says so.
    let is_there = !String::from_utf8_lossy(&headers).contains("\r\nKV-Operation:");
    let value = decode(&answer.data)?;
    Ok(Stored { value: is_there.then(|| value.into()), revision: answer.seq })
}

async fn write(nats: &Nats, key: &str, value: Bytes, lifetime: Duration, revision: u64) -> Result<u64, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(revision));
    if nats.features.message_ttl {
        let lifetime = lifetime.max(LIFETIME_MIN);
        let seconds = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
        headers.insert(header::NATS_MESSAGE_TTL, HeaderValue::from(seconds));
    }
    let target = subject(&nats.bucket, key);
    if let Some(why) = nats.link.denied(&target) {
        return Err(Fault::Unavailable(why));
    }
    let confirmation = confirm::send(nats, &target, headers, value).await.map_err(fault)?;
    confirmation.stored().await.map(|stored| stored.sequence).map_err(fault)
}

fn fault(why: Unconfirmed) -> Fault {
    match why {
        Unconfirmed::Refused(ErrorCode::STREAM_WRONG_LAST_SEQUENCE, _) => Fault::Conflict,
        Unconfirmed::NoStream => Fault::Nobody("there is no such bucket".into()),
        why => Fault::Unavailable(why.to_string()),
    }
}
