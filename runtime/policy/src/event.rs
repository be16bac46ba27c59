//! Events and outputs: what a handler is given, and what it wants published.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::attempt::Attempt;
use crate::id::{IdKind, Token};

/// Header names and values in the order they were received; a name may occur more than once.
pub type Headers = Vec<(String, String)>;

/// `CloudEvents` attributes in their string form, by their names in lower case.
pub type Attributes = BTreeMap<String, String>;

/// One event, as the handler sees it. Mirrors `event` in `wit/handler.wit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Identifies the event: the same for every attempt and every duplicate.
    pub id: String,
    /// Where the id comes from, which handlers do not get.
    pub id_kind: IdKind,
    /// What all ids on the wire that follow from the event are derived from.
    pub token: Token,
    /// The subject the event was first published on.
    pub subject: String,
    /// The CloudEvents `type`.
    pub kind: Option<String>,
    /// The CloudEvents `source`.
    pub source: Option<String>,
    /// When it happened, in milliseconds since the Unix epoch.
    pub time_ms: Option<u64>,
    /// The same in nanoseconds, which handlers do not get.
    pub time_ns: Option<i128>,
    /// The media type of `payload`.
    pub content_type: Option<String>,
    /// The CloudEvents `dataschema`, which handlers do not get.
    pub data_schema: Option<String>,
    /// All attributes of a `CloudEvent`, extensions included, whatever its mode; handlers do not get them. Empty where it
    /// is none.
    pub attributes: Attributes,
    /// Shared by all events that follow from the same first event.
    pub correlation_id: String,
    /// The id of the event whose handling published this one.
    pub causation_id: Option<String>,
    /// Which attempt is about to be made.
    pub attempt: Attempt,
    /// The policy's limit on attempts.
    pub max_attempts: u32,
    /// Headers without those of the broker and the host.
    pub headers: Headers,
    /// The event's data.
    pub payload: Bytes,
}

/// A message that a handler wants published. Mirrors `output` in `wit/handler.wit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to publish.
    pub subject: String,
    /// The CloudEvents `type`; where set, the message is a `CloudEvent` in binary mode.
    pub kind: Option<String>,
    /// The media type of `payload`.
    pub content_type: Option<String>,
    /// Additional headers.
    pub headers: Headers,
    /// The message's data.
    pub payload: Bytes,
}
