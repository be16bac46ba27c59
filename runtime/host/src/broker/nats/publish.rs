//! Publishing with confirmation, and what each refusal means.
//!
//! Before anything of a batch is sent, all of it is looked at: whether a stream stores each subject, whether the server
//! lets us publish on it, and whether each message is small enough for both. Otherwise the first output of a batch would
//! take effect although the second one cannot be stored.

use async_nats::jetstream::ErrorCode;
use tidemill_policy::publication::Publication;
use tidemill_policy::{headers, marker};

use super::confirm::{self, Confirmation, Stored, Unconfirmed};
use super::routes::{self, Answer};
use super::{Nats, batch, grants, headers_into, streams};
use crate::broker::{PublishError, Published};
use crate::troubles::Effect;

/// Publishes a batch and waits until every message is confirmed. What cannot be published is a trouble until
/// it can.
///
/// # Errors
/// The first refusal. Nothing is sent of a batch of which it is known beforehand that a message would be refused.
pub async fn publish(nats: &Nats, batch: &[Publication]) -> Result<Published, PublishError> {
    let before = Connection::of(nats);
    before.told(nats, publish_untold(nats, batch).await).await
}

/// Publishes a batch at one moment, or nothing of it. What cannot be published is a trouble until it can.
///
/// # Errors
/// The first refusal; nothing is stored then, as far as it is one.
pub async fn publish_together(nats: &Nats, together: &[Publication]) -> Result<Published, PublishError> {
    let before = Connection::of(nats);
    before.told(nats, Box::pin(batch::publish(nats, together)).await).await
}

/// The connection as it was when something was begun. Where it is interrupted meanwhile, that is the trouble.
struct Connection {
    was_up: bool,
    reconnects: u64,
}

impl Connection {
    fn of(nats: &Nats) -> Connection {
        Connection { was_up: nats.link.is_up(), reconnects: *nats.link.reconnects.borrow() }
    }

    /// What has come of it, with the trouble made that it is.
    async fn told<T>(&self, nats: &Nats, result: Result<T, PublishError>) -> Result<T, PublishError> {
        let fault = match result {
            Ok(stored) => return Ok(stored),
            Err(fault) => fault,
        };
        let has_lasted = self.was_up && nats.link.is_up() && self.reconnects == *nats.link.reconnects.borrow();
        Err(Box::pin(tell(nats, fault, has_lasted)).await)
    }
}

fn stream_trouble(stream: &str) -> String {
    format!("stream {stream}")
}

fn subject_trouble(subject: &str) -> String {
    format!("publishing on {subject}")
}

/// Makes a trouble of what cannot be published. Where our own retries and dead letters are refused, there is
/// nothing to do but to hold the event until somebody helps, so that counts as unavailable.
async fn tell(nats: &Nats, fault: PublishError, is_news: bool) -> PublishError {
    let (subject, what, why) = match &fault {
        PublishError::Unavailable { subject, why } => {
            let stream = nats.routes.stream_of(subject);
            (subject, stream.map_or_else(|| subject_trouble(subject), |stream| stream_trouble(&stream)), why.clone())
        }
        PublishError::Denied { subject, why } if nats.own.load().needs(subject) => {
            (subject, subject_trouble(subject), format!("{why}; grant publish on {subject:?}"))
        }
        PublishError::NoStream { subject } if nats.own.load().needs(subject) => {
            let restored = streams::restore(nats, None).await;
            let why = restored.map_or_else(|error| error.to_string(), |()| "its stream is gone".to_owned());
            (subject, subject_trouble(subject), why)
        }
        PublishError::Denied { subject, .. } => {
            // Its events go where policy sends them; that is worth a word.
            nats.link.troubles.begin(&subject_trouble(subject), Effect::None, &fault.to_string());
            return fault;
        }
        PublishError::NoStream { .. } | PublishError::TooLarge { .. } | PublishError::Apart { .. } => return fault,
    };
    if is_news {
        nats.link.troubles.begin(&what, Effect::Publishing, &format!("{why}; events are held until it works"));
    }
    PublishError::Unavailable { subject: subject.clone(), why }
}

/// What was stored is no trouble any more.
pub(super) fn well(nats: &Nats, stream: &str, subject: &str) {
    if !nats.link.troubles.are_none() {
        nats.link.troubles.end(&stream_trouble(stream));
        nats.link.troubles.end(&subject_trouble(subject));
    }
}

/// The most bytes of headers that a stream stores with a message.
const HEADER_BYTES_MAX: usize = u16::MAX as usize;
/// The bytes around the headers on the wire: their first line and the empty one at their end.
const HEADER_FRAME_BYTES: usize = "NATS/1.0\r\n\r\n".len();

/// Refuses a batch of which it is known beforehand that some message is denied, has no stream, or is too large.
pub(super) async fn check(nats: &Nats, batch: &[Publication]) -> Result<(), PublishError> {
    if batch.len() > 1 {
        Box::pin(routes::renew(nats)).await;
    }
    for message in batch {
        let subject = &message.subject;
        if let Some(why) = nats.link.denied(subject) {
            return Err(PublishError::Denied { subject: subject.clone(), why });
        }
        if batch.len() > 1
            && let Some(why) = Box::pin(grants::refuses(nats, subject)).await
        {
            return Err(PublishError::Denied { subject: subject.clone(), why });
        }
        if !nats.routes.stores(subject) && Box::pin(routes::is_known_to_be_stored(nats, subject)).await == Some(false) {
            return Err(Box::pin(unstored(nats, subject)).await);
        }
    }
    for (index, message) in batch.iter().enumerate() {
        if let Some(why) = too_large(nats, message) {
            let why = if batch.len() > 1 { format!("output {index} has {why}") } else { format!("it has {why}") };
            return Err(PublishError::TooLarge { subject: message.subject.clone(), why });
        }
    }
    Ok(())
}

/// Which limit a message exceeds, as far as limits are known.
fn too_large(nats: &Nats, message: &Publication) -> Option<String> {
    let headers = HEADER_FRAME_BYTES + headers::wire_bytes(&message.headers);
    let bytes = headers + message.payload.len();
    let of_server = nats.client.max_payload();
    if headers > HEADER_BYTES_MAX {
        return Some(format!("{headers} bytes of headers, and streams store {HEADER_BYTES_MAX}"));
    }
    if bytes > of_server {
        return Some(format!("{bytes} bytes with its headers, and the server takes {of_server} (max_payload)"));
    }
    let (stream, of_stream) = nats.routes.limit_of(&message.subject).filter(|(_, most)| bytes > *most)?;
    Some(format!("{bytes} bytes with its headers, and stream {stream} takes {of_stream} (max_msg_size)"))
}

async fn publish_untold(nats: &Nats, batch: &[Publication]) -> Result<Published, PublishError> {
    check(nats, batch).await?;
    let [message] = batch else { return Box::pin(publish_many(nats, batch)).await };
    let stored = confirm(nats, message, send(nats, message).await?).await?;
    well(nats, &stored.stream, &message.subject);
    let repeated = usize::from(stored.duplicate);
    Ok(Published { last: marker::Stored { stream: stored.stream, sequence: stored.sequence }, repeated })
}

async fn publish_many(nats: &Nats, batch: &[Publication]) -> Result<Published, PublishError> {
    let mut sent = Vec::with_capacity(batch.len());
    for message in batch {
        sent.push((message, send(nats, message).await?));
    }
    let mut published = Published::default();
    for (message, confirmation) in sent {
        let stored = confirm(nats, message, confirmation).await?;
        well(nats, &stored.stream, &message.subject);
        published.repeated += usize::from(stored.duplicate);
        published.last = marker::Stored { stream: stored.stream, sequence: stored.sequence };
    }
    Ok(published)
}

pub(super) async fn send(nats: &Nats, message: &Publication) -> Result<Confirmation, PublishError> {
    let headers = headers_into(&message.headers);
    match confirm::send(nats, &message.subject, headers, message.payload.clone()).await {
        Ok(confirmation) => Ok(confirmation),
        Err(why) => Err(Box::pin(refusal(nats, &message.subject, why)).await),
    }
}

async fn confirm(nats: &Nats, message: &Publication, confirmation: Confirmation) -> Result<Stored, PublishError> {
    match confirmation.stored().await {
        Ok(stored) => Ok(stored),
        Err(why) => Err(Box::pin(refusal(nats, &message.subject, why)).await),
    }
}

/// What a failed publication means.
pub(super) async fn refusal(nats: &Nats, subject: &str, why: Unconfirmed) -> PublishError {
    let own = subject.to_owned();
    match why {
        Unconfirmed::TooLarge(why) => PublishError::TooLarge { subject: own, why },
        Unconfirmed::Denied(why) => PublishError::Denied { subject: own, why },
        Unconfirmed::NoStream => unstored(nats, subject).await,
        Unconfirmed::Refused(code, why) => refused(subject, Some(code), why),
        Unconfirmed::Unknown(why) => refused(subject, None, why),
    }
}

/// What it means that a stream did not store a message.
pub(super) fn refused(subject: &str, code: Option<ErrorCode>, why: String) -> PublishError {
    let subject = subject.to_owned();
    match code {
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
            PublishError::TooLarge { subject, why }
        }
        _ if why.contains("maximum messages") || why.contains("maximum bytes") => {
            let why = format!("the stream is full ({why}): raise its limits, or remove messages");
            PublishError::Unavailable { subject, why }
        }
        _ => PublishError::Unavailable { subject, why },
    }
}

/// What it means that nobody answers for a subject: a stream without a leader does not answer either, and is
/// not in the list of streams, but its name is known.
pub(super) async fn unstored(nats: &Nats, subject: &str) -> PublishError {
    let unavailable = |why: &str| PublishError::Unavailable { subject: subject.to_owned(), why: why.to_owned() };
    match routes::ask_for_stream(nats, subject).await {
        Answer::Is(Some(_)) => unavailable("the stream has no leader"),
        Answer::Silence => unavailable("the server does not answer"),
        Answer::Is(None) | Answer::Denial => PublishError::NoStream { subject: subject.to_owned() },
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
