//! Ids on the wire, derived and never drawn: the same event, handler and purpose give the same id in
//! every attempt, on every instance, after every crash.

use sha2::{Digest, Sha256};

/// What a derived message is to its event. Part of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The output with this index.
    Output(u32),
    /// The place where its retries wait.
    Schedule,
    /// The dead letter, after the event was replayed so often: each run has one at most.
    DeadLetter(u32),
    /// The event's return from the dead letters, for the time that is counted.
    Replay(u32),
    /// The event's retry, brought forward.
    Hurry,
}

/// Who an event is, on the wire: its id, and its source where the message names one, because
/// `CloudEvents` ids are unique only within their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The `CloudEvents` source.
    pub source: Option<&'a str>,
    /// The event's id.
    pub id: &'a str,
}

/// The id of a message that a handler's run for an event gives rise to: 26 characters of base32. The attempt is no part of it, so a
/// repeated output is recognised as a duplicate.
pub fn derive(event: Identity<'_>, handler: &str, purpose: Purpose) -> String {
    let (tag, number) = match purpose {
        Purpose::Output(index) => ("output", index),
        Purpose::Schedule => ("schedule", 0),
        Purpose::DeadLetter(epoch) => ("dead-letter", epoch),
        Purpose::Replay(epoch) => ("replay", epoch),
        Purpose::Hurry => ("hurry", 0),
    };
    hash([event.source.unwrap_or_default(), event.id, handler, tag], number)
}

/// The id of the retry that follows a message: one, however often that is delivered and whatever fails meanwhile.
/// Another message of the same event has another.
pub fn retry(event: Identity<'_>, handler: &str, message: &str) -> String {
    hash([event.source.unwrap_or_default(), event.id, handler, "retry", message], 0)
}

/// The name of what is remembered of an event for a handler. `place` tells messages of one identity apart, where
/// they are to be; `epoch` is the number of replays.
pub fn marker(event: Identity<'_>, handler: &str, place: &str, epoch: u32) -> String {
    hash([event.source.unwrap_or_default(), event.id, handler, "marker", place], epoch)
}

/// The name of what is remembered of a key's newest event for a handler.
pub fn newest(handler: &str, key: &str) -> String {
    hash([handler, "newest", key], 0)
}

/// 128 bits of the SHA-256 over all parts, each preceded by its length, and a number.
fn hash<const N: usize>(parts: [&str; N], number: u32) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(number.to_le_bytes());
    encode(&hash.finalize()[..16])
}

/// A token for `text` that may stand in a subject: base32 of 128 bits of its SHA-256.
pub fn token(text: &str) -> String {
    encode(&Sha256::digest(text)[..16])
}

/// The id of an event that brings none: its place in its stream. The time at which the stream was
/// created is part of it, since sequences start anew when a stream is deleted and made again.
pub fn from_position(stream: &str, created_unix: i64, sequence: u64) -> String {
    use std::fmt::Write as _;
    // The longest numbers have 20 digits.
    let mut id = String::with_capacity(stream.len() + 42);
    let _ = write!(id, "{stream}@{created_unix}:{sequence}");
    id
}

/// A number in `0.0..1.0` that depends on the event and the attempt only: the jitter of its delay, the
/// same in every replay.
pub fn fraction(event_id: &str, handler: &str, attempt: u32) -> f64 {
    let identity = Identity { source: None, id: event_id };
    unit(&retry(identity, handler, &attempt.to_string()))
}

/// A number in `0.0..1.0` that depends on the event alone, not on the attempt: where it stands among all events.
pub fn lot(event_id: &str) -> f64 {
    unit(&hash([event_id, "lot"], 0))
}

/// A number in `0.0..1.0`, evenly spread over all texts.
fn unit(text: &str) -> f64 {
    let hash = Sha256::digest(text);
    let bits = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

fn encode(bytes: &[u8]) -> String {
    let mut text = data_encoding::BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENT: Identity<'_> = Identity { source: None, id: "e1" };

    #[test]
    fn every_part_changes_the_id() {
        let ids = [
            derive(EVENT, "h", Purpose::Output(0)),
            derive(EVENT, "h", Purpose::Output(1)),
            derive(EVENT, "h", Purpose::Schedule),
            retry(EVENT, "h", "IN:1@5"),
            retry(EVENT, "h", "IN:1@6"),
            marker(EVENT, "h", "", 0),
            marker(EVENT, "h", "", 1),
            derive(EVENT, "h", Purpose::DeadLetter(1)),
            derive(EVENT, "h", Purpose::DeadLetter(2)),
            derive(EVENT, "g", Purpose::Output(0)),
            derive(Identity { source: Some("s"), id: "e1" }, "h", Purpose::Output(0)),
            derive(Identity { source: None, id: "e2" }, "h", Purpose::Output(0)),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| id.len() == 26));
    }

    #[test]
    fn the_id_is_the_same_in_every_release() {
        assert_eq!(derive(EVENT, "h", Purpose::Output(0)), "smci5ovpz5bmoojisptz5jvpli");
    }

    proptest! {
        #[test]
        fn parts_cannot_run_into_each_other(a in ".{0,6}", b in ".{0,6}", c in ".{1,6}") {
            let one = derive(Identity { source: Some(&a), id: &format!("{b}{c}") }, "h", Purpose::DeadLetter(1));
            let two = derive(Identity { source: Some(&format!("{a}{b}")), id: &c }, "h", Purpose::DeadLetter(1));
            prop_assert_eq!(one == two, b.is_empty());
        }

        #[test]
        fn fractions_lie_between_zero_and_one(id in ".*", attempt in 1u32..) {
            prop_assert!((0.0..1.0).contains(&fraction(&id, "h", attempt)));
            prop_assert!((0.0..1.0).contains(&lot(&id)));
        }
    }
}
