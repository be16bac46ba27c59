//! Having instances reload, or go back to an earlier version: each answers for itself.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::instances;
use crate::broker::nats::Nats;
use crate::broker::nats::ask::AskError;
use crate::instance::Applied;
use crate::service::{RollbackRequest, reload_subject, rollback_subject};

/// How long an instance may take: it may have to compile all its components.
const ANSWER_MAX: Duration = Duration::from_mins(2);

/// What came of it at one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The instance.
    pub instance: String,
    /// Whether it worked.
    pub ok: bool,
    /// What stands against it.
    pub problems: Vec<String>,
    /// What has changed there.
    #[serde(flatten)]
    pub applied: Applied,
}

/// Has all instances with this prefix look at their files, or only the one that is named.
///
/// # Errors
/// Where the server denies the question, or nothing can be sent.
pub async fn reload(nats: &Nats, prefix: &str, instance: Option<&str>) -> Result<Vec<Answer>, AskError> {
    ask(nats, prefix, instance, reload_subject, Bytes::new()).await
}

/// Has all instances with this prefix go back to an earlier version of a handler, or only the one that is named.
///
/// # Errors
/// Where the server denies the question, or nothing can be sent.
pub async fn rollback(
    nats: &Nats,
    prefix: &str,
    instance: Option<&str>,
    request: &RollbackRequest,
) -> Result<Vec<Answer>, AskError> {
    let request = serde_json::to_vec(request).unwrap_or_default();
    ask(nats, prefix, instance, rollback_subject, request.into()).await
}

async fn ask(
    nats: &Nats,
    prefix: &str,
    instance: Option<&str>,
    subject: fn(&str, &str) -> String,
    request: Bytes,
) -> Result<Vec<Answer>, AskError> {
    let found = instances::find(nats, prefix).await?;
    let wanted = found.into_iter().map(|one| one.name).filter(|name| instance.is_none_or(|wanted| wanted == name));
    let asked = wanted.map(|name| {
        let (subject, request) = (subject(prefix, &name), request.clone());
        async move {
            let request = async_nats::Request::new().payload(request).timeout(Some(ANSWER_MAX));
            let answer = match nats.client.send_request(subject, request).await {
                Ok(answer) => serde_json::from_slice(&answer.payload).unwrap_or_else(|error| failed(&error)),
                Err(error) => failed(&error),
            };
            Answer { instance: name, ..answer }
        }
    });
    Ok(join_all(asked).await)
}

fn failed(error: &impl std::fmt::Display) -> Answer {
    Answer { problems: vec![format!("it did not answer: {error}")], ..Answer::default() }
}
