//! Publishing several messages at one moment: the atomic batches of `JetStream` (ADR-50, nats-server 2.12).
//!
//! The messages of a batch carry its id and their number; the server keeps them aside until the last one, which says
//! so, and then stores all of them or none. A batch that is not finished is dropped after ten seconds. Servers that
//! know no batches ignore these headers in silence, so [`super::preflight`] refuses them beforehand.

use std::collections::BTreeSet;

use async_nats::Subscriber;
use async_nats::client::PublishErrorKind;
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures::StreamExt;
use futures::future::select_all;
use tidemill_policy::publication::Publication;
use tidemill_policy::{headers, together};
use tokio::time::{Instant, timeout};

use super::confirm::Unconfirmed;
use super::publish::{check, refusal, refused, send, unstored, well};
use super::{CONFIRM_TIMEOUT, Nats, headers_from, headers_into, routes};
use crate::broker::{PublishError, Published};

/// How many batches one process has open at a time. A stream allows 50 to all its publishers.
pub const OPEN_MAX: usize = 16;
/// How often a batch is sent of which the server knows a part: once as a whole, once the rest of it, and once more
/// where ids were forgotten in between.
const ROUNDS_MAX: usize = 3;
/// A roll-up that no server knows. It has a message refused, but only after its id was looked up.
const NO_ROLLUP: (&str, &str) = ("Nats-Rollup", "none");

/// Why a batch was not stored.
enum Fault {
    /// The server knows the id of one of the messages.
    Known,
    Other(PublishError),
}

/// Publishes a batch at one moment. Where the server knows a part of it, [`together`] says what is left to do.
///
/// # Errors
/// Nothing was stored, unless the server could not confirm.
pub(super) async fn publish(nats: &Nats, batch: &[Publication]) -> Result<Published, PublishError> {
    check(nats, batch).await?;
    let Some(first) = batch.first() else { return Ok(Published::default()) };
    let stream = stream_of_all(nats, batch)?;
    let mut left: Vec<&Publication> = batch.iter().collect();
    let mut published = Published::default();
    for _ in 0..ROUNDS_MAX {
        match store(nats, &stream, &left).await {
            Ok(()) => left.clear(),
            Err(Fault::Other(fault)) => return Err(fault),
            Err(Fault::Known) => {
                left = rest(nats, &stream, batch).await?;
                published.repeated = batch.len() - left.len();
            }
        }
        if left.is_empty() {
            well(nats, &stream, &first.subject);
            return Ok(published);
        }
    }
    Err(unavailable(&first.subject, "the server knows a part of the outputs, and not always the same".into()))
}

/// The one stream that stores a batch.
fn stream_of_all(nats: &Nats, batch: &[Publication]) -> Result<String, PublishError> {
    let mut streams = batch.iter().map(|message| {
        let unknown = || unavailable(&message.subject, "the server does not tell which stream stores it".into());
        nats.routes.stream_of(&message.subject).map(|stream| (&message.subject, stream)).ok_or_else(unknown)
    });
    let (_, other) = streams.next().expect("a batch has a message")?;
    for next in streams {
        let (subject, stream) = next?;
        if stream != other {
            return Err(PublishError::Apart { subject: subject.clone(), stream, other });
        }
    }
    Ok(other)
}

/// Sends a batch and waits until it is stored.
async fn store(nats: &Nats, stream: &str, batch: &[&Publication]) -> Result<(), Fault> {
    let _open = nats.batches.acquire().await;
    let since = Instant::now();
    let subjects: BTreeSet<_> = batch.iter().map(|message| message.subject.as_str()).collect();
    let denials = subjects
        .into_iter()
        .map(|subject| Box::pin(async move { (subject, nats.link.until_denied(subject, since).await) }));
    tokio::select! {
        stored = send_all(nats, stream, batch) => stored,
        ((subject, why), ..) = select_all(denials) => {
            Err(Fault::Other(PublishError::Denied { subject: subject.to_owned(), why }))
        }
    }
}

async fn send_all(nats: &Nats, stream: &str, batch: &[&Publication]) -> Result<(), Fault> {
    let inbox = nats.client.new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or_default();
    let subject = batch.first().map_or("", |message| message.subject.as_str());
    let mut replies = nats.client.subscribe(inbox.clone()).await.map_err(|error| other(subject, error.to_string()))?;
    for (number, message) in (1..).zip(batch) {
        let mut headers = headers_into(&message.headers);
        headers.insert(NATS_BATCH_ID, id);
        headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
        if number == batch.len() {
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        }
        let sent = nats.client.publish_with_reply_and_headers(
            message.subject.clone(),
            inbox.clone(),
            headers,
            message.payload.clone(),
        );
        sent.await.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Fault::Other(PublishError::TooLarge { subject: message.subject.clone(), why: error.to_string() })
            }
            _ => other(&message.subject, error.to_string()),
        })?;
        // The server says to the first one whether it takes the batch.
        if number == 1 && number < batch.len() && reply(nats, stream, subject, &mut replies).await?.is_some() {
            return Err(other(subject, "the server ignores atomic batches; 2.12.1 and later store them".into()));
        }
    }
    loop {
        match reply(nats, stream, subject, &mut replies).await? {
            Some(stored) if stored.batch_id.as_deref() == Some(id) => return Ok(()),
            Some(_) => return Err(other(subject, "the server stored a message of the batch on its own".into())),
            None => {}
        }
    }
}

/// The next answer of the server; nothing where it has put a message aside.
async fn reply(
    nats: &Nats,
    stream: &str,
    subject: &str,
    replies: &mut Subscriber,
) -> Result<Option<PublishAck>, Fault> {
    let Ok(Some(message)) = timeout(CONFIRM_TIMEOUT, replies.next()).await else {
        return Err(other(subject, "the server does not answer".into()));
    };
    if message.status.is_some() {
        return Err(Fault::Other(unstored(nats, subject).await));
    }
    if message.payload.is_empty() {
        return Ok(None);
    }
    let error = match serde_json::from_slice(&message.payload) {
        Ok(Response::Ok(stored)) => return Ok(Some(stored)),
        Ok(Response::Err { error }) => error,
        Err(error) => return Err(other(subject, error.to_string())),
    };
    Err(match error.error_code() {
        ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Fault::Known,
        ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH => {
            Fault::Other(PublishError::TooLarge { subject: subject.to_owned(), why: error.to_string() })
        }
        ErrorCode::ATOMIC_PUBLISH_DISABLED => {
            let why =
                format!("stream {stream:?} does not take atomic batches; nats stream edit {stream} --allow-batch");
            other(subject, why)
        }
        code => {
            // Perhaps other streams store the subjects by now.
            nats.routes.forget();
            Fault::Other(refused(subject, Some(code), error.to_string()))
        }
    })
}

/// The messages of a batch that are still to be stored, given that the server knows some of them.
async fn rest<'a>(nats: &Nats, stream: &str, batch: &'a [Publication]) -> Result<Vec<&'a Publication>, PublishError> {
    let sequences = sequences(nats, batch).await?;
    let known: Vec<_> = sequences.iter().map(Option::is_some).collect();
    let mut whole = false;
    if together::is_in_doubt(&known) {
        for sequence in sequences.into_iter().flatten() {
            let answer = is_of_a_whole(nats, stream, sequence).await;
            whole = answer.map_err(|why| unavailable(&batch[0].subject, why))?;
            if whole {
                break;
            }
        }
    }
    Ok(together::rest(&known, whole).into_iter().map(|index| &batch[index]).collect())
}

/// Whether a message was stored together with all outputs of its event. One that is gone does not tell.
async fn is_of_a_whole(nats: &Nats, stream: &str, sequence: u64) -> Result<bool, String> {
    let stream = nats.context.get_stream_no_info(stream).await.map_err(|error| error.to_string())?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(together::is_of_a_whole(&headers_from(Some(&message.headers)))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Where the stream has stored what it knows by these messages' ids.
async fn sequences(nats: &Nats, batch: &[Publication]) -> Result<Vec<Option<u64>>, PublishError> {
    let mut asked = Vec::with_capacity(batch.len());
    for message in batch {
        let id = headers::get(&message.headers, headers::MSG_ID).unwrap_or_default();
        let question = question(&message.subject, id);
        asked.push((message.subject.as_str(), send(nats, &question).await?));
    }
    let mut sequences = Vec::with_capacity(batch.len());
    for (subject, answer) in asked {
        sequences.push(match answer.stored().await {
            Ok(stored) if stored.duplicate => Some(stored.sequence),
            Ok(_) => return Err(unavailable(subject, "the server stored what was only a question".into())),
            Err(Unconfirmed::Refused(ErrorCode::STREAM_ROLLUP_FAILED, _)) => None,
            Err(why) => return Err(refusal(nats, subject, why).await),
        });
    }
    Ok(sequences)
}

/// A message that is never stored: the server answers that it is a duplicate if it knows the id, else that it
/// refuses the message.
fn question(subject: &str, id: &str) -> Publication {
    let list = [(headers::MSG_ID, id), NO_ROLLUP];
    let headers = list.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Publication { subject: subject.to_owned(), headers, payload: bytes::Bytes::new() }
}

/// Whether a stream that stores what one of `patterns` selects knows an id.
///
/// # Errors
/// Where the server does not answer, or refuses the question.
pub(super) async fn knows(nats: &Nats, patterns: &[String], id: &str) -> Result<bool, PublishError> {
    for pattern in patterns {
        // Only to have the list of streams looked at.
        routes::is_known_to_be_stored(nats, pattern).await;
    }
    let subjects = nats.routes.subjects_of(patterns);
    let subjects =
        subjects.ok_or_else(|| unavailable("", "the server does not tell which streams there are".into()))?;
    let questions: Vec<_> = subjects.iter().map(|subject| question(subject, id)).collect();
    Ok(sequences(nats, &questions).await?.iter().any(Option::is_some))
}

fn unavailable(subject: &str, why: String) -> PublishError {
    PublishError::Unavailable { subject: subject.to_owned(), why }
}

fn other(subject: &str, why: String) -> Fault {
    Fault::Other(unavailable(subject, why))
}
