//! The names of the headers that the broker and we use, and the rule that guests never set them.

use crate::event::Headers;
use crate::id;

/// The stream the event was first stored in.
pub const ORIGIN_STREAM: &str = "Tidemill-Origin-Stream";
/// The event's sequence in that stream.
pub const ORIGIN_SEQ: &str = "Tidemill-Origin-Seq";
/// The subject the event was first published on.
pub const ORIGIN_SUBJECT: &str = "Tidemill-Origin-Subject";
/// When the event was first stored, in milliseconds since the Unix epoch.
pub const ORIGIN_TIME: &str = "Tidemill-Origin-Time";
/// The event's id.
pub const EVENT_ID: &str = "Tidemill-Event-Id";
/// Where the event's id comes from, see [`crate::id::IdKind`].
pub const ID_KIND: &str = "Tidemill-Id-Kind";
/// What all ids on the wire that follow from the event are derived from, see [`crate::id::Token`].
pub const IDENTITY: &str = "Tidemill-Identity";
/// The handler a retry or dead letter belongs to.
pub const HANDLER: &str = "Tidemill-Handler";
/// On a retry, the number of the attempt to make; on a dead letter, of the last one made.
pub const ATTEMPT: &str = "Tidemill-Attempt";
/// The error history: a JSON array.
pub const ERRORS: &str = "Tidemill-Errors";
/// How many errors were dropped from the middle of the history to bound its size.
pub const ERRORS_DROPPED: &str = "Tidemill-Errors-Dropped";
/// Shared by all events that follow from the same first event.
pub const CORRELATION_ID: &str = "Tidemill-Correlation-Id";
/// The id of the event whose handling published this message.
pub const CAUSATION_ID: &str = "Tidemill-Causation-Id";
/// How many outputs of the event were stored together with this one, itself included.
pub const OUTPUTS: &str = "Tidemill-Outputs";
/// Before when a retry must not run (milliseconds since the Unix epoch); only on servers without
/// message schedules.
pub const NOT_BEFORE: &str = "Tidemill-Not-Before";
/// Why an event was given up on: an error kind.
pub const REASON: &str = "Tidemill-Reason";
/// When it was given up on (RFC 3339).
pub const DEAD_AT: &str = "Tidemill-Dead-At";
/// The digest of the component that handled it last.
pub const COMPONENT: &str = "Tidemill-Component";
/// The random seed of the last attempt, for replay.
pub const SEED: &str = "Tidemill-Seed";
/// The time that the handler saw in the last attempt (milliseconds since the Unix epoch), for replay.
pub const CLOCK: &str = "Tidemill-Clock";
/// How many of the message's own headers were left out because all together were too large.
pub const HEADERS_DROPPED: &str = "Tidemill-Headers-Dropped";
/// How often the event was replayed from the dead letters: part of its identity for deduplication, so that a
/// replay is run once although the event is known.
pub const REPLAY: &str = "Tidemill-Replay";

/// The broker's id for duplicate detection.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// When a scheduled message is due.
pub const SCHEDULE: &str = "Nats-Schedule";
/// Where a scheduled message goes when it is due.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// The schedule that a message has to do with.
pub const SCHEDULER: &str = "Nats-Scheduler";
/// What becomes of that schedule when the message is stored: `purge` cancels it, in the same step.
pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
/// The message is stored only if this is the last sequence of a subject.
pub const EXPECTED_LAST_SEQ: &str = "Nats-Expected-Last-Subject-Sequence";
/// Of which subject.
pub const EXPECTED_LAST_SEQ_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// Where the broker has copied a message from: stream, sequence, and more.
pub const STREAM_SOURCE: &str = "Nats-Stream-Source";
/// How long the broker keeps a message.
pub const TTL: &str = "Nats-TTL";

/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The media type of the payload.
pub const CONTENT_TYPE: &str = "Content-Type";

/// Whether a header belongs to the broker or to us. Such headers of guests and of republished inputs
/// are dropped: one `Nats-Rollup: all` could empty a stream.
pub fn is_reserved(name: &str) -> bool {
    ["nats-", "tidemill-"].iter().any(|prefix| {
        name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    })
}

/// The first value of a header, whose name is compared without regard to case.
pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a name can be sent: visible ASCII without a colon.
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// Whether a value can be sent: no line breaks (which would start another header) and no NUL.
pub fn is_valid_value(value: &str) -> bool {
    !value.contains(['\r', '\n', '\0'])
}

/// An id as it can be sent in a header and read back unchanged. One with control characters, with blanks at its
/// ends, or too long to be repeated in every message is replaced by its hash, so that different ids stay
/// different.
pub fn clean_id(id: impl AsRef<str> + Into<String>) -> String {
    const ID_BYTES_MAX: usize = 256;
    let text = id.as_ref();
    let is_clean = (1..=ID_BYTES_MAX).contains(&text.len()) && text.trim() == text && !text.contains(char::is_control);
    if is_clean { id.into() } else { id::token(text) }
}

/// The id that a header holds. A blank one is none: the events that have it are not one and the same.
pub fn get_id(headers: &Headers, name: &str) -> Option<String> {
    get(headers, name).filter(|id| !id.trim().is_empty()).map(clean_id)
}

/// The bytes that these headers take on the wire.
pub fn wire_bytes(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_broker_and_of_ours_are_reserved_in_any_case() {
        for name in ["Nats-Msg-Id", "NATS-ROLLUP", "nats-ttl", "Tidemill-Attempt", "tidemill-x", "Nats-"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["", "Nats", "X-Nats-Msg-Id", "traceparent", "Tidemil", "é"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn values_that_would_start_another_header_are_invalid() {
        assert!(!is_valid_value("a\r\nNats-Rollup: all"));
        assert!(!is_valid_value("a\nb"));
        assert!(is_valid_value("plain, ünïcode"));
        assert!(!is_valid_name("a b") && !is_valid_name("a:b") && !is_valid_name("") && !is_valid_name("ä"));
        assert!(is_valid_name("X-Trace"));
    }

    #[test]
    fn an_id_is_sent_as_it_is_where_it_comes_back_unchanged() {
        for id in ["a", "a b", "ü.*>", &"x".repeat(256)] {
            assert_eq!(clean_id(id), id);
        }
        for id in ["", " a", "a\u{a0}", "a\nb", "a\u{85}b", "\0", &"x".repeat(257)] {
            let clean = clean_id(id);
            assert_eq!(clean, id::token(id));
            assert_eq!(clean_id(&clean), clean);
        }
    }

    /// Two events with one id would have the same outputs, of which the server drops the second ones.
    #[test]
    fn different_ids_stay_different() {
        let ids = ["a b", "a\tb", "a\nb", " a b", "a b ", "", " "].map(clean_id);
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    }
}
