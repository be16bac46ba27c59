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

use super::connect::Link;
use super::{CONFIRM_TIMEOUT, Nats, headers_into, streams};
use crate::broker::PublishError;
use crate::troubles::Effect;

/// How old the list of streams must be before a subject that is not in it is looked up again.
const ROUTES_AGE_MIN: Duration = Duration::from_secs(1);
/// The same where the server did not give us the list.
const NO_ROUTES_AGE_MIN: Duration = Duration::from_mins(1);
/// The subject that the list of streams is asked for on.
const LIST_SUBJECT: &str = "$JS.API.STREAM.LIST";

/// The subjects that the server's streams store.
#[derive(Debug, Default)]
pub struct Routes {
    known: RwLock<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// Streams, each with a subject pattern that it stores; nothing where we may not ask.
    filters: Option<Vec<(String, String)>>,
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

/// Publishes a batch and waits until every message is confirmed. What cannot be published is a trouble until
/// it can.
///
/// # Errors
/// The first refusal. Of a batch with a subject that no stream stores, nothing is sent.
pub async fn publish(nats: &Nats, batch: &[Publication]) -> Result<(), PublishError> {
    let Link { reconnects, troubles, .. } = &*nats.link;
    let (was_up, before) = (nats.link.is_up(), *reconnects.borrow());
    let Err(fault) = publish_untold(nats, batch).await else {
        for message in batch.iter().filter(|_| !troubles.are_none()) {
            troubles.end(&stream_trouble(nats, &message.subject));
            troubles.end(&subject_trouble(&message.subject));
        }
        return Ok(());
    };
    // Where the connection was interrupted, that is the trouble.
    let is_news = was_up && nats.link.is_up() && before == *reconnects.borrow();
    Err(tell(nats, fault, is_news).await)
}

/// What is in trouble where a stream does not take messages: the stream, as far as it is known.
fn stream_trouble(nats: &Nats, subject: &str) -> String {
    nats.routes.stream_of(subject).map_or_else(|| subject_trouble(subject), |stream| format!("stream {stream}"))
}

fn subject_trouble(subject: &str) -> String {
    format!("publishing on {subject}")
}

/// Makes a trouble of what cannot be published. Where our own retries and dead letters are refused, there is
/// nothing to do but to hold the event until somebody helps, so that counts as unavailable.
async fn tell(nats: &Nats, fault: PublishError, is_news: bool) -> PublishError {
    let (subject, what, why) = match &fault {
        PublishError::Unavailable { subject, why } => (subject, stream_trouble(nats, subject), why.clone()),
        PublishError::Denied { subject, why } if nats.own.needs(subject) => {
            (subject, subject_trouble(subject), format!("{why}; grant publish on {subject:?}"))
        }
        PublishError::NoStream { subject } if nats.own.needs(subject) => {
            let restored = streams::restore(nats, None).await;
            nats.routes.forget();
            let why = restored.map_or_else(|error| error.to_string(), |()| "its stream is gone".to_owned());
            (subject, subject_trouble(subject), why)
        }
        PublishError::Denied { subject, .. } => {
            // Its events go where policy sends them; that is worth a word.
            nats.link.troubles.begin(&subject_trouble(subject), Effect::None, &fault.to_string());
            return fault;
        }
        PublishError::NoStream { .. } | PublishError::TooLarge { .. } => return fault,
    };
    if is_news {
        nats.link.troubles.begin(&what, Effect::Publishing, &format!("{why}; events are held until it works"));
    }
    PublishError::Unavailable { subject: subject.clone(), why }
}

async fn publish_untold(nats: &Nats, batch: &[Publication]) -> Result<(), PublishError> {
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
        sent.push((message, Instant::now(), send(nats, message).await?));
    }
    for (message, since, confirmation) in sent {
        confirm(nats, message, since, confirmation).await?;
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
    since: Instant,
    confirmation: PublishAckFuture,
) -> Result<PublishAck, PublishError> {
    let subject = &message.subject;
    tokio::select! {
        result = confirmation => match result {
            Ok(stored) => Ok(stored),
            Err(error) => Err(refusal(nats, subject, &error).await),
        },
        why = nats.link.until_denied(subject, since) => Err(PublishError::Denied { subject: subject.clone(), why }),
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
            _ if why.contains("maximum messages") || why.contains("maximum bytes") => {
                let why = format!("the stream is full ({why}): raise its limits, or remove messages");
                PublishError::Unavailable { subject, why }
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
    let age_min = if route == Route::Unknown { NO_ROUTES_AGE_MIN } else { ROUTES_AGE_MIN };
    if route == Route::Stored || age.is_some_and(|age| age < age_min) {
        return route;
    }
    let filters = list_filters(nats).await;
    nats.routes.replace(filters);
    nats.routes.look_up(subject).0
}

/// All streams, each with a subject that it stores, or nothing if the server does not say.
async fn list_filters(nats: &Nats) -> Option<Vec<(String, String)>> {
    let list = nats.context.streams().map_ok(|stream| (stream.config.name, stream.config.subjects));
    tokio::select! {
        list = list.try_collect::<Vec<_>>() => match list {
            Ok(streams) => {
                let pairs = |(name, subjects): (String, Vec<String>)| subjects.into_iter().map(move |one| (name.clone(), one));
                Some(streams.into_iter().flat_map(pairs).collect())
            }
            Err(error) => {
                tracing::debug!(%error, "could not list the streams");
                None
            }
        },
        _ = nats.link.until_denied(LIST_SUBJECT, Instant::now()) => None,
        () = tokio::time::sleep(CONFIRM_TIMEOUT) => None,
    }
}

/// Whether some stream stores every subject that `pattern` matches; nothing if the server does not say.
pub async fn is_stored(nats: &Nats, pattern: &str) -> Option<bool> {
    let filters = list_filters(nats).await?;
    Some(filters.iter().any(|(_, filter)| subject::covers(filter, pattern)))
}

impl Routes {
    fn look_up(&self, subject: &str) -> (Route, Option<Duration>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return (Route::Unknown, None) };
        let route = match &known.filters {
            None => Route::Unknown,
            Some(filters) if filters.iter().any(|(_, filter)| subject::matches(filter, subject)) => Route::Stored,
            Some(_) => Route::NotStored,
        };
        (route, Some(known.since.elapsed()))
    }

    /// The stream that stores a subject, as far as is known.
    fn stream_of(&self, subject: &str) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let filters = known.as_ref()?.filters.as_ref()?;
        filters.iter().find(|(_, filter)| subject::matches(filter, subject)).map(|(stream, _)| stream.clone())
    }

    fn replace(&self, filters: Option<Vec<(String, String)>>) {
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
    let since = Instant::now();
    let confirmation = send(nats, message).await?;
    let stored = confirm(nats, message, since, confirmation).await?;
    Ok((stored.stream, stored.sequence, stored.duplicate))
}
