//! Consumers that the server itself holds back (2.11 and later), so that a breaker that is open shows in every NATS
//! tool, and holds for instances that are yet to start.

use serde_json::{Value, json};
use tidemill_policy::decide::rfc3339;

use super::ask::{ask, found};
use super::{Nats, streams};

/// The API level from which consumers can be paused (2.11).
const PAUSE_API_LEVEL: u64 = 1;

/// The subject on which a consumer is paused.
pub fn subject(stream: &str, consumer: &str) -> String {
    format!("$JS.API.{}", path(stream, consumer))
}

fn path(stream: &str, consumer: &str) -> String {
    format!("CONSUMER.PAUSE.{stream}.{consumer}")
}

/// Pauses consumers (each a stream and a name) until a time in milliseconds since the Unix epoch, or resumes them.
/// Those that do not exist, and servers that cannot, are left alone.
///
/// # Errors
/// What the server says against it.
pub async fn pause(nats: &Nats, consumers: &[(String, String)], until_ms: Option<u64>) -> Result<(), String> {
    if nats.features.api_level < PAUSE_API_LEVEL {
        return Ok(());
    }
    let question = until_ms.map_or_else(|| json!({}), |until_ms| json!({ "pause_until": rfc3339(until_ms) }));
    for (stream, consumer) in consumers {
        let answer = ask::<Value>(nats, &path(stream, consumer), &question).await;
        found(answer).map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Nats {
    /// Finds out what operators' commands need of a connection that made no streams: what the server offers, and which
    /// bucket is ours.
    ///
    /// # Errors
    /// Where JetStream is not enabled, or does not answer.
    pub async fn look_at_own(&mut self, prefix: &str) -> Result<(), streams::StreamError> {
        let api = streams::api(self).await?;
        prefix.clone_into(&mut self.prefix);
        self.bucket = super::markers::bucket(prefix);
        self.features.api_level = api.level;
        self.features.message_ttl = api.level >= streams::MESSAGE_TTL_API_LEVEL;
        Ok(())
    }
}
