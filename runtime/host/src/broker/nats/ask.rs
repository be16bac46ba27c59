//! Questions to `JetStream`, with what each refusal means for the person who asked.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

use super::{CONFIRM_TIMEOUT, Nats};

/// Why there is no answer. Each says what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskError {
    /// The server runs without `JetStream`.
    #[error("JetStream is not enabled on the NATS server; start it with -js, or enable it for this account")]
    NoJetStream,
    /// The server denies the question.
    #[error(
        "the server denies requests on {subject:?}: {why}; \
         ask for the permission to publish on it, or use other credentials in [nats]"
    )]
    Denied {
        /// Where the question was asked.
        subject: String,
        /// What the server said.
        why: String,
    },
    /// There is no such stream or consumer.
    #[error("{0}")]
    NotFound(String),
    /// The stream has no such message.
    #[error("{0}")]
    NoMessage(String),
    /// The server refuses.
    #[error("the NATS server refuses {subject}: {why}")]
    Refused {
        /// Where the question was asked.
        subject: String,
        /// What the server said.
        why: String,
    },
    /// The server did not answer.
    #[error("the NATS server does not answer {subject}: {why}; is it still up, and has the stream a leader?")]
    NoAnswer {
        /// Where the question was asked.
        subject: String,
        /// What happened.
        why: String,
    },
}

/// Asks on `$JS.API.<path>`. Where there is nothing to say but the path, the question is `Value::Null`.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn ask<T: DeserializeOwned>(nats: &Nats, path: &str, question: &Value) -> Result<T, AskError> {
    let subject = format!("$JS.API.{path}");
    if let Some(why) = nats.link.denied(&subject) {
        return Err(AskError::Denied { subject, why });
    }
    let since = Instant::now();
    let payload = if question.is_null() { Bytes::new() } else { question.to_string().into() };
    let request = Request::new().payload(payload).timeout(Some(CONFIRM_TIMEOUT));
    let answer = tokio::select! {
        answer = nats.client.send_request(subject.clone(), request) => answer,
        // The server says so beside the request, which itself is never answered.
        why = nats.link.until_denied(&subject, since) => return Err(AskError::Denied { subject, why }),
    };
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => AskError::NoJetStream,
        _ => AskError::NoAnswer { subject: subject.clone(), why: error.to_string() },
    })?;
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(match error.error_code() {
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => AskError::NoJetStream,
            ErrorCode::NO_MESSAGE_FOUND => AskError::NoMessage(error.to_string()),
            _ if error.code() == 404 => AskError::NotFound(error.to_string()),
            _ => AskError::Refused { subject, why: error.to_string() },
        }),
        Err(error) => Err(AskError::NoAnswer { subject, why: error.to_string() }),
    }
}

/// A message as a stream keeps it.
#[derive(Debug, Deserialize)]
pub struct Kept {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub seq: u64,
    /// Its headers, in base64; nothing where it has none.
    #[serde(default)]
    pub hdrs: String,
    /// Its payload, in base64.
    #[serde(default)]
    pub data: String,
    /// When it was stored, as RFC 3339.
    pub time: String,
}

/// Asks the leader of a stream for a message.
///
/// # Errors
/// Where there is no such message or stream, and where the server denies, refuses or does not answer.
pub async fn message(nats: &Nats, stream: &str, question: &Value) -> Result<Kept, AskError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Kept,
    }
    let answer: Answer = ask(nats, &format!("STREAM.MSG.GET.{stream}"), question).await?;
    Ok(answer.message)
}

/// The answer, or nothing where what was asked for does not exist.
///
/// # Errors
/// All others.
pub fn found<T>(answer: Result<T, AskError>) -> Result<Option<T>, AskError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(AskError::NotFound(_) | AskError::NoMessage(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
