//! Publishing with confirmation, and what each refusal means.
//!
//! Before anything of a batch is sent, every subject is compared with what the server's streams store:
//! otherwise the first output of a batch would take effect although the second one has nowhere to go.

use std::sync::{PoisonError, RwLock};

use async_nats::jetstream::context::{PublishAckFuture, PublishError as AckError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use futures::TryStreamExt;
use tidemill_policy::publication::Publication;
use tidemill_policy::subject;
use tokio::time::{Duration, Instant};

use super::{CONFIRM_TIMEOUT, Nats, headers_into};
use crate::broker::PublishError;

/// How old the list of streams must be before a subject that is not in it is looked up again.
const ROUTES_AGE_MIN: Duration = Duration::from_secs(1);

/// Where the streams are asked for.
const LIST_SUBJECT: &str = "$JS.API.STREAM.LIST";

/// The subjects that the server's streams store.
#[derive(Debug, Default)]
pub struct Routes {
    known: RwLock<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// Subject patterns; nothing where we may not ask.
    filters: Option<Vec<String>>,
    since: Instant,
}

/// Whether a stream stores a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Stored,
    NotStored,
    /// We may not ask, or the server did not answer.
    Unknown,
}

/// Publishes a batch and waits until every message is confirmed.
///
/// # Errors
/// The first refusal. Of a batch with a subject that no stream stores, nothing is sent.
pub async fn publish(nats: &Nats, batch: &[Publication]) -> Result<(), PublishError> {
    for message in batch {
        let subject = &message.subject;
        if let Some(why) = nats.link.denied(subject) {
            return Err(PublishError::Denied { subject: subject.clone(), why });
        }
        if route(nats, subject).await == Route::NotStored {
            return Err(PublishError::NoStream { subject: subject.clone() });
        }
    }
    let mut sent = Vec::with_capacity(batch.len());
    for message in batch {
        sent.push((message, send(nats, message).await?));
    }
    for (message, confirmation) in sent {
        confirm(nats, message, confirmation).await?;
    }
    Ok(())
}

async fn send(nats: &Nats, message: &Publication) -> Result<PublishAckFuture, PublishError> {
    let outgoing = PublishMessage::build().payload(message.payload.clone()).headers(headers_into(&message.headers));
    match nats.context.send_publish(message.subject.clone(), outgoing).await {
        Ok(confirmation) => Ok(confirmation),
        Err(error) => Err(refusal(nats, &message.subject, &error).await),
    }
}

/// Waits for a confirmation, or for the server to say that it denies the subject: it says so beside the
/// request, which itself is never answered.
async fn confirm(
    nats: &Nats,
    message: &Publication,
    confirmation: PublishAckFuture,
) -> Result<PublishAck, PublishError> {
    let subject = &message.subject;
    tokio::select! {
        result = confirmation => match result {
            Ok(stored) => Ok(stored),
            Err(error) => Err(refusal(nats, subject, &error).await),
        },
        why = nats.link.until_denied(subject) => Err(PublishError::Denied { subject: subject.clone(), why }),
    }
}

/// What a failed publication means.
async fn refusal(nats: &Nats, subject: &str, error: &AckError) -> PublishError {
    let subject = subject.to_owned();
    let why = error.to_string();
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge { subject, why },
        // A stream without a leader does not answer either, so ask whether there is one.
        PublishErrorKind::StreamNotFound => {
            nats.routes.forget();
            match route(nats, &subject).await {
                Route::Stored => PublishError::Unavailable { subject, why: "the stream has no leader".into() },
                Route::NotStored => PublishError::NoStream { subject },
                // Where we may not ask, this is all that we get to know. Else the server is going down or coming up.
                Route::Unknown if nats.link.denied(LIST_SUBJECT).is_some() => PublishError::NoStream { subject },
                Route::Unknown => PublishError::Unavailable { subject, why },
            }
        }
        _ => match server_code(error) {
            Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
                PublishError::TooLarge { subject, why }
            }
            _ => PublishError::Unavailable { subject, why },
        },
    }
}

pub(super) fn server_code(error: &AckError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

async fn route(nats: &Nats, subject: &str) -> Route {
    let (route, age) = nats.routes.look_up(subject);
    if route == Route::Stored || age.is_some_and(|age| age < ROUTES_AGE_MIN) {
        return route;
    }
    let filters = list_filters(&nats.context).await;
    nats.routes.replace(filters);
    nats.routes.look_up(subject).0
}

/// The subjects of all streams, or nothing if the server does not say.
async fn list_filters(context: &jetstream::Context) -> Option<Vec<String>> {
    let list = context.streams().map_ok(|stream| stream.config.subjects).try_collect::<Vec<_>>();
    match tokio::time::timeout(CONFIRM_TIMEOUT, list).await {
        Ok(Ok(subjects)) => Some(subjects.into_iter().flatten().collect()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "could not list the streams");
            None
        }
        Err(_) => None,
    }
}

/// Whether some stream stores every subject that `pattern` matches; nothing if the server does not say.
pub async fn is_stored(nats: &Nats, pattern: &str) -> Option<bool> {
    let filters = list_filters(&nats.context).await?;
    Some(filters.iter().any(|filter| subject::covers(filter, pattern)))
}

impl Routes {
    fn look_up(&self, subject: &str) -> (Route, Option<Duration>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return (Route::Unknown, None) };
        let route = match &known.filters {
            None => Route::Unknown,
            Some(filters) if filters.iter().any(|filter| subject::matches(filter, subject)) => Route::Stored,
            Some(_) => Route::NotStored,
        };
        (route, Some(known.since.elapsed()))
    }

    fn replace(&self, filters: Option<Vec<String>>) {
        let known = Known { filters, since: Instant::now() };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    fn forget(&self) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Publishes one message for the command line, and returns the stream, the sequence it got, and whether it was
/// there already.
///
/// # Errors
/// Where it is refused or not confirmed.
pub async fn publish_one(nats: &Nats, message: &Publication) -> Result<(String, u64, bool), PublishError> {
    let confirmation = send(nats, message).await?;
    let stored = confirm(nats, message, confirmation).await?;
    Ok((stored.stream, stored.sequence, stored.duplicate))
}
