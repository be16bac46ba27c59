//! The instances that run now: each answers for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::StatusCode;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::broker::nats::Nats;
use crate::broker::nats::ask::AskError;
use crate::reload::Loaded;
use crate::service::{HANDLER_ENDPOINT, INSTANCE_ENDPOINT, stats_subject};

/// How long the first answer may take.
const FIRST_MAX: Duration = Duration::from_secs(2);
/// How long to wait for one more answer.
const QUIET: Duration = Duration::from_millis(500);
/// How long all answers together may take.
const ALL_MAX: Duration = Duration::from_secs(5);

/// An instance, as it tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Instance {
    /// Its name.
    #[serde(rename = "instance")]
    pub name: String,
    /// Its program's version.
    #[serde(default)]
    pub version: String,
    /// When its process started, as RFC 3339.
    #[serde(default)]
    pub started: String,
    /// For how long it runs, in milliseconds.
    #[serde(default)]
    pub uptime_ms: u64,
    /// Whether it consumes events.
    #[serde(default)]
    pub ready: bool,
    /// What is wrong with it: each with `what` and `why`.
    #[serde(default)]
    pub troubles: Vec<Value>,
    /// What of a bucket it runs, if its components come from one.
    #[serde(default)]
    pub bucket: Option<Loaded>,
    /// What came of its last reload; nothing before the first.
    #[serde(default)]
    pub last_reload: Option<LastReload>,
    /// What it tells of each of its handlers.
    #[serde(skip)]
    pub handlers: BTreeMap<String, Map<String, Value>>,
}

/// What came of the last reload of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LastReload {
    /// Whether it worked.
    pub ok: bool,
    /// What stands against it.
    pub problems: Vec<String>,
    /// How far the copy of the bucket was when it began.
    pub bucket_sequence: Option<u64>,
}

#[derive(Deserialize)]
struct Stats {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
    #[serde(default)]
    data: Value,
}

/// Asks all instances with this prefix how they are; those that answer, by name.
///
/// # Errors
/// Where the server denies the question, or nothing can be sent.
pub async fn find(nats: &Nats, prefix: &str) -> Result<Vec<Instance>, AskError> {
    let subject = stats_subject(prefix);
    let since = Instant::now();
    tokio::select! {
        found = ask_all(nats, &subject) => found.map_err(|why| AskError::NoAnswer { subject: subject.clone(), why }),
        why = nats.link.until_denied(&subject, since) => Err(AskError::Denied { subject: subject.clone(), why }),
    }
}

async fn ask_all(nats: &Nats, subject: &str) -> Result<Vec<Instance>, String> {
    let inbox = nats.client.new_inbox();
    let mut answers = nats.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
    let question = nats.client.publish_with_reply(subject.to_owned(), inbox, "".into());
    question.await.map_err(|error| error.to_string())?;
    let end = Instant::now() + ALL_MAX;
    let (mut found, mut until) = (BTreeMap::new(), Instant::now() + FIRST_MAX);
    while let Ok(Some(answer)) = timeout_at(until.min(end), answers.next()).await {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            break;
        }
        if let Some(instance) = read(&answer.payload) {
            found.insert(instance.name.clone(), instance);
        }
        until = Instant::now() + QUIET;
    }
    Ok(found.into_values().collect())
}

/// What an answer tells; nothing where somebody else gave it.
fn read(answer: &[u8]) -> Option<Instance> {
    let stats: Stats = serde_json::from_slice(answer).ok()?;
    let mut instance = None;
    let mut handlers = BTreeMap::new();
    for Endpoint { name, data } in stats.endpoints {
        if name == INSTANCE_ENDPOINT {
            instance = serde_json::from_value::<Instance>(data).ok();
        } else if let (Some(handler), Value::Object(data)) = (name.strip_prefix(HANDLER_ENDPOINT), data) {
            handlers.insert(handler.to_owned(), data);
        }
    }
    Some(Instance { handlers, ..instance? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_instances_are_read() {
        let endpoint = |name: &str, data: Value| json!({ "name": name, "num_requests": 0, "data": data });
        let answer =
            |endpoints: Vec<Value>| json!({ "name": "tidemill", "id": "x", "endpoints": endpoints }).to_string();
        let own = endpoint("status", json!({ "instance": "a", "ready": true, "added_later": 1 }));
        let ours = answer(vec![endpoint("handler-h", json!({ "in_flight": 2 })), own]);
        let instance = read(ours.as_bytes()).expect("an instance");
        assert_eq!((instance.name.as_str(), instance.ready), ("a", true));
        assert_eq!(instance.handlers["h"]["in_flight"], 2);
        for other in [answer(vec![endpoint("status", json!({ "up": true }))]), answer(Vec::new()), "{}".to_owned()] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }
}
