//! What the running tidemill says about itself, asked over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::expect::Expected;

/// How long an answer may take on a machine that is busy with other things.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of `/api/v1/status` that the demo shows.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Status {
    /// The handlers by name.
    pub(crate) handlers: BTreeMap<String, HandlerStatus>,
}

/// What became of the deliveries of one handler.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct HandlerStatus {
    /// Events queued or running.
    pub(crate) in_flight: u64,
    /// Events handled.
    pub(crate) handled: u64,
    /// Attempts that failed and are followed by another.
    pub(crate) retried: u64,
    /// Events given up on.
    pub(crate) dead_lettered: u64,
    /// The median time from delivery to settlement.
    pub(crate) p50_us: u64,
    /// The 99th percentile of it.
    pub(crate) p99_us: u64,
}

impl HandlerStatus {
    /// Events that the handler is done with.
    pub(crate) fn ends(&self) -> u64 {
        self.handled + self.dead_lettered
    }
}

impl Status {
    /// How often handlers are done with an event.
    pub(crate) fn ends(&self) -> u64 {
        self.handlers.values().map(HandlerStatus::ends).sum()
    }

    /// What one handler did; nothing yet where it is not known.
    pub(crate) fn of(&self, handler: &str) -> HandlerStatus {
        self.handlers.get(handler).cloned().unwrap_or_default()
    }

    /// What is yet to be done: a line for each handler that is not done with all its events.
    pub(crate) fn missing(&self, expected: &Expected) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, tally) in &expected.handlers {
            let status = self.of(name);
            if status.ends() < tally.ends() || status.in_flight > 0 {
                lines.push(format!(
                    "{name}: done with {} of {} events ({} in flight), {} of {} retries, {} of {} dead letters",
                    status.ends(),
                    tally.ends(),
                    status.in_flight,
                    status.retried,
                    tally.retried,
                    status.dead_lettered,
                    tally.dead_lettered,
                ));
            }
        }
        lines
    }
}

/// How often it is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// When to ask again.
pub(crate) fn ticks() -> Interval {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Asks the instance on `port` how far it is.
pub(crate) async fn fetch(port: u16) -> Result<Status> {
    let (code, body) = get(port, "/api/v1/status").await?;
    if code != 200 {
        bail!("the status endpoint answers {code}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the status cannot be read")
}

/// Whether the instance on `port` says that it consumes events.
pub(crate) async fn is_ready(port: u16) -> bool {
    matches!(get(port, "/readyz").await, Ok((200, _)))
}

/// A GET request over a connection of its own; returns the status code and the body.
async fn get(port: u16, path: &str) -> Result<(u16, Vec<u8>)> {
    let exchange = async {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(ANSWER_TIMEOUT, exchange).await.context("tidemill does not answer")??;
    split(&answer).context("tidemill's answer is not HTTP")
}

/// The status code and the body of an answer of known length.
fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((code, answer[end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events, expect};

    #[test]
    fn answers_are_split_into_code_and_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(split(answer), Some((503, b"no".to_vec())));
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(split(b"SSH-2.0\r\n\r\n"), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let expected = expect::expect(&events::all());
        let json = r#"{"instance": "i", "ready": true, "connected": true, "handlers": {
            "order-pricing": {"component": "c", "in_flight": 0, "handled": 2994, "retried": 4, "released": 0,
                "dead_lettered": 6, "p50_us": 1, "p99_us": 2},
            "loyalty-points": {"component": "c", "in_flight": 1, "handled": 2992, "retried": 44, "released": 0,
                "dead_lettered": 1, "p50_us": 1, "p99_us": 2}}}"#;
        let status: Status = serde_json::from_str(json).expect("the API's shape");
        let missing = status.missing(&expected);
        assert_eq!(missing.len(), 2);
        assert!(missing[0].starts_with("loyalty-points: done with 2993 of 2994 events (1 in flight)"), "{missing:?}");
        assert!(missing[1].starts_with("welcome-email: done with 0 of 1000"), "{missing:?}");
    }
}
