//! Whether something still has an event: the message that was worked on, its retry, its dead letter. Asked where another
//! message of the event has arrived, which is rare; each question is one look-up by the JSON API.

use futures::future::join_all;
use serde_json::json;
use tidemill_policy::arrival::place_of;
use tidemill_policy::id::{Place, Token};
use tidemill_policy::marker::{Carrier, Stored};
use tidemill_policy::publication::{retry_due_subject, retry_schedule_subject};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ask::{self, AskError, Kept, found};
use super::{Nats, streams};
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
            Some(place) => is_stored(nats, &place).await,
            None => Ok(false),
        },
        Carrier::Letter(Stored { stream, sequence }) => {
            let kept = found(ask::message(nats, stream, &json!({ "seq": sequence })).await)?;
            Ok(kept.is_some_and(|kept| is_of(&kept, token)))
        }
        Carrier::Retry => {
            let prefix = nats.prefix();
            let subjects =
                [retry_schedule_subject(prefix, handler, token), retry_due_subject(prefix, handler, Some(token))];
            let stream = streams::retry_stream(prefix);
            for subject in subjects {
                if found(ask::message(nats, &stream, &json!({ "last_by_subj": subject })).await)?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Whether the very message is still in its stream. One that was made anew may have another one there.
async fn is_stored(nats: &Nats, place: &Place) -> Result<bool, AskError> {
    let kept = found(ask::message(nats, &place.stream, &json!({ "seq": place.sequence })).await)?;
    Ok(kept.is_some_and(|kept| stored_ms(&kept) == Some(place.stored_ms)))
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
