//! Questions to `JetStream`, with what each refusal means for the person who asked.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::Nats;

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
    /// There is no such stream, consumer or message.
    #[error("{0}")]
    NotFound(String),
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

/// Asks on `$JS.API.<path>`.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn ask<T: DeserializeOwned>(nats: &Nats, path: &str, question: &impl Serialize) -> Result<T, AskError> {
    let subject = format!("$JS.API.{path}");
    if let Some(why) = nats.link.denied(&subject) {
        return Err(AskError::Denied { subject, why });
    }
    let answer = tokio::select! {
        answer = nats.context.request::<_, _, Response<T>>(path.to_owned(), question) => answer,
        // The server says so beside the request, which itself is never answered.
        why = nats.link.until_denied(&subject) => return Err(AskError::Denied { subject, why }),
    };
    match answer {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(match error.error_code() {
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => AskError::NoJetStream,
            _ if error.code() == 404 => AskError::NotFound(error.to_string()),
            _ => AskError::Refused { subject, why: error.to_string() },
        }),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(AskError::NoJetStream),
        Err(error) => Err(AskError::NoAnswer { subject, why: error.to_string() }),
    }
}

/// The answer, or nothing where what was asked for does not exist.
///
/// # Errors
/// All others.
pub fn found<T>(answer: Result<T, AskError>) -> Result<Option<T>, AskError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(AskError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
