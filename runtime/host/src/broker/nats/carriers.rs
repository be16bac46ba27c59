//! Whether something still has an event: the message that was worked on, its retry, its dead letter. Asked where another
//! message of the event has arrived, which is rare; each question is one look-up by the JSON API.

use async_nats::jetstream::consumer::Info;
use futures::future::join_all;
use serde_json::json;
use tidemill_policy::arrival::place_of;
use tidemill_policy::id::{Place, Token};
use tidemill_policy::marker::{Carrier, Stored};
use tidemill_policy::publication::{retry_due_subject, retry_schedule_subject};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ask::{self, AskError, Kept, ask, found};
use super::{Nats, position, streams};
use crate::broker::MarkerError;

/// Whether one of `carriers` is still there. What we may not look at is taken for being there.
///
/// # Errors
/// Where the server does not answer.
pub(super) async fn carries(
    nats: &Nats,
    handler: &str,
    token: &Token,
    carriers: &[Carrier],
) -> Result<bool, MarkerError> {
    let answers = join_all(carriers.iter().map(|carrier| is_there(nats, handler, token, carrier))).await;
    let mut fault = None;
    for answer in answers {
        match answer {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            Err(why @ AskError::Denied { .. }) => {
                tracing::warn!(handler, %why, "cannot tell whether another message of an event is still there");
                return Ok(true);
            }
            Err(why) => fault = Some(why),
        }
    }
    fault.map_or(Ok(false), |why| Err(MarkerError::Unavailable(why.to_string())))
}

async fn is_there(nats: &Nats, handler: &str, token: &Token, carrier: &Carrier) -> Result<bool, AskError> {
    match carrier {
        Carrier::Message(name) => match place_of(name) {
            Some(place) if is_stream_name(&place.stream) => {
                Ok(is_stored(nats, &place).await? && is_to_come(nats, handler, &place).await?)
            }
            _ => Ok(false),
        },
        Carrier::Letter(Stored { stream, .. }) if !is_stream_name(stream) => Ok(false),
        Carrier::Letter(Stored { stream, sequence }) => {
            let kept = found(ask::message(nats, stream, &json!({ "seq": sequence })).await)?;
            Ok(kept.is_some_and(|kept| is_of(&kept, token)))
        }
        Carrier::Retry => Ok(!retries(nats, handler, token).await?.is_empty()),
    }
}

/// The retry of an event that waits, and the one that is due.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn retries(nats: &Nats, handler: &str, token: &Token) -> Result<Vec<Kept>, AskError> {
    let prefix = nats.prefix();
    let subjects = [retry_schedule_subject(prefix, handler, token), retry_due_subject(prefix, handler, Some(token))];
    let stream = streams::retry_stream(prefix);
    let mut all = Vec::new();
    // In this order: one that falls due in between is found all the same.
    for subject in subjects {
        all.extend(found(ask::message(nats, &stream, &json!({ "last_by_subj": subject })).await)?);
    }
    Ok(all)
}

/// Whether the very message is still in its stream. One that was made anew may have another one there.
async fn is_stored(nats: &Nats, place: &Place) -> Result<bool, AskError> {
    let kept = found(ask::message(nats, &place.stream, &json!({ "seq": place.sequence })).await)?;
    Ok(kept.is_some_and(|kept| stored_ms(&kept) == Some(place.stored_ms)))
}

/// Whether the handler's consumer may still deliver a message that is stored: it has not passed it. A handler may have been
/// told to go on elsewhere, or may select something else by now.
async fn is_to_come(nats: &Nats, handler: &str, place: &Place) -> Result<bool, AskError> {
    let durable = nats.durables.load().get(&(handler.to_owned(), place.stream.clone())).cloned();
    let Some(durable) = durable else { return Ok(true) };
    let path = format!("CONSUMER.INFO.{}.{durable}", place.stream);
    let info = found(ask::<Info>(nats, &path, &serde_json::Value::Null).await)?;
    // What is in flight may be above what was delivered last.
    Ok(info.is_none_or(|info| position::floor(&info, 0) < place.sequence))
}

/// Whether a stream can have this name; a record in a bucket may say anything.
fn is_stream_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "./\\*>".contains(c))
}

/// Whether a message says that it is about the event with this token.
fn is_of(kept: &Kept, token: &Token) -> bool {
    let raw = data_encoding::BASE64.decode(kept.hdrs.as_bytes()).unwrap_or_default();
    let wanted = token.as_str().as_bytes();
    raw.windows(wanted.len()).any(|part| part == wanted)
}

fn stored_ms(kept: &Kept) -> Option<u64> {
    let time = OffsetDateTime::parse(&kept.time, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}
