//! Messages that the client library cannot parse.
//!
//! `async-nats` drops the whole connection when a message has headers that are not UTF-8 or not of the form
//! `name: value`. Unattended, one such message would interrupt every handler of the process again and again.
//! After each interruption the messages that were delivered and are not being worked on are fetched through
//! the JSON API, which carries headers in base64; those that are unreadable are handed to the pipeline as
//! damaged, which dead-letters them.

use std::str::FromStr;

use async_nats::{HeaderName, Subject};
use serde::Deserialize;
use tidemill_policy::arrival::{Message, Position};
use tidemill_policy::event::Headers;
use tidemill_policy::subject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Nats;
use super::consume::Spec;
use super::lease::Leases;

/// The most messages that are looked at after one interruption.
const LOOK_UPS_MAX: usize = 1000;

/// A message as the JSON API gives it.
#[derive(Debug, Deserialize)]
struct Stored {
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    message: Option<Stored>,
}

/// The sequences of messages that were delivered to the consumer, and neither settled nor are being worked on.
pub async fn candidates(nats: &Nats, spec: &Spec, leases: &Leases) -> Vec<u64> {
    let Ok(stream) = nats.context.get_stream_no_info(&spec.stream).await else { return Vec::new() };
    let Ok(info) = stream.consumer_info(&spec.name).await else { return Vec::new() };
    if info.num_ack_pending == 0 {
        return Vec::new();
    }
    let delivered = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
    delivered.filter(|&sequence| !leases.holds(sequence)).take(LOOK_UPS_MAX).collect()
}

/// The message at a sequence if it is unreadable, with the subject that settles it.
pub async fn unreadable(nats: &Nats, spec: &Spec, sequence: u64) -> Option<(Message, Position, Subject)> {
    let stored = fetch(nats, &spec.stream, sequence).await?;
    let raw = data_encoding::BASE64.decode(stored.hdrs.as_bytes()).unwrap_or_default();
    let damage = fault(&raw)?;
    if !spec.filters.iter().any(|filter| subject::matches(filter, &stored.subject)) {
        return None;
    }
    tracing::warn!(stream = %spec.stream, sequence, damage, "found a message that the NATS client cannot read");
    Some(delivery(spec, sequence, stored, &raw, damage))
}

async fn fetch(nats: &Nats, stream: &str, sequence: u64) -> Option<Stored> {
    let request = serde_json::json!({ "seq": sequence });
    let answer: Answer = nats.context.request(format!("STREAM.MSG.GET.{stream}"), &request).await.ok()?;
    answer.message
}

/// What the client would stumble over in a header block, by its own rules.
pub(super) fn fault(raw: &[u8]) -> Option<&'static str> {
    if raw.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(raw) else { return Some("its headers are not valid UTF-8") };
    let mut lines = text.lines();
    if !lines.next().is_some_and(|line| line.starts_with("NATS/1.0")) {
        return Some("its headers do not begin with NATS/1.0");
    }
    let is_valid = |line: &str| {
        line.is_empty()
            || line.starts_with(char::is_whitespace)
            || line.split_once(':').is_some_and(|(name, _)| HeaderName::from_str(name).is_ok())
    };
    if lines.clone().any(|line| line.contains('\r')) {
        return Some("a header contains a carriage return");
    }
    (!lines.all(is_valid)).then_some("a header is not of the form \"name: value\"")
}

fn delivery(spec: &Spec, sequence: u64, stored: Stored, raw: &[u8], damage: &str) -> (Message, Position, Subject) {
    let time = OffsetDateTime::parse(&stored.time, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let nanos = time.unix_timestamp_nanos();
    let position = Position {
        stream: spec.stream.clone(),
        stream_created_unix: spec.stream_created_unix,
        sequence,
        stored_ms: u64::try_from(nanos / 1_000_000).unwrap_or(0),
        delivered: 1,
    };
    let message = Message {
        subject: stored.subject,
        headers: lossy(raw),
        payload: data_encoding::BASE64.decode(stored.data.as_bytes()).unwrap_or_default().into(),
        damage: Some(damage.to_owned()),
    };
    // The server finds a delivery by its stream sequence; count, consumer sequence and backlog are not looked at.
    let reply = format!("$JS.ACK.{}.{}.1.{sequence}.1.{nanos}.0", spec.stream, spec.name);
    (message, position, reply.into())
}

/// What can be read of a header block, for the dead letter.
pub(super) fn lossy(raw: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(raw);
    let pairs = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_cannot_parse_is_at_fault() {
        let good: &[&[u8]] = &[b"", b"NATS/1.0\r\n\r\n", "NATS/1.0\r\nA: ü\r\nB:\r\n folded\r\n\r\n".as_bytes()];
        for raw in good {
            assert_eq!(fault(raw), None, "{raw:?}");
        }
        let bad: &[&[u8]] = &[
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nA: b\rc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        ];
        for raw in bad {
            assert!(fault(raw).is_some(), "{raw:?}");
        }
    }

    #[test]
    fn what_can_be_read_is_kept() {
        assert_eq!(lossy(b"NATS/1.0\r\nA: x\xffy\r\n\r\n"), [("A".to_owned(), "x\u{fffd}y".to_owned())]);
    }
}
