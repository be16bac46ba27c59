//! Which headers a handler's policy reads. An event must not lose them on its way to its next attempt, or that would
//! find another event.

use crate::headers;
use crate::latest;
use crate::manifest::{DedupKey, Handler, OrderKey, OrderTime, SchemaBy};

/// The headers that make a message a `CloudEvent` in binary mode, as far as decoding reads them.
const CLOUD_EVENT_HEADERS: [&str; 7] =
    ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-datacontenttype", "ce-dataschema"];
/// The headers of a W3C trace context.
const TRACE_HEADERS: [&str; 2] = [headers::TRACEPARENT, "tracestate"];
/// The longest trace header that is worth its room: what every tracing system has to pass on.
const TRACE_BYTES_MAX: usize = 512;

/// Whether the next attempt needs a header to see the same event.
pub(crate) fn needs(handler: &Handler, name: &str, value: &str) -> bool {
    let is = |needed: &str| name.eq_ignore_ascii_case(needed);
    if TRACE_HEADERS.into_iter().any(is) {
        return value.len() <= TRACE_BYTES_MAX;
    }
    is(headers::CONTENT_TYPE) || CLOUD_EVENT_HEADERS.into_iter().any(is) || is_named(handler, name)
}

/// Whether the manifest names a header.
pub(crate) fn is_named(handler: &Handler, name: &str) -> bool {
    names(handler).any(|part| part.is(name))
}

/// A part of an event that a manifest names.
enum Part<'a> {
    Header(&'a str),
    Attribute(&'a str),
}

impl Part<'_> {
    /// Whether it may be in this header.
    fn is(&self, header: &str) -> bool {
        match self {
            Part::Header(name) => header.eq_ignore_ascii_case(name),
            Part::Attribute(name) => header
                .split_at_checked(3)
                .is_some_and(|(prefix, rest)| prefix.eq_ignore_ascii_case("ce-") && rest.eq_ignore_ascii_case(name)),
        }
    }
}

/// The headers and attributes that a handler's policy names.
fn names(handler: &Handler) -> impl Iterator<Item = Part<'_>> {
    let latest = latest::policy(handler);
    let dedup = handler.dedup.as_ref().and_then(|dedup| match &dedup.key {
        DedupKey::Header(name) => Some(Part::Header(name)),
        DedupKey::Attribute(name) => Some(Part::Attribute(name)),
        DedupKey::Id | DedupKey::Json(_) => None,
    });
    let key = handler.key_order().map(|order| &order.key).or_else(|| latest.map(|latest| &latest.key));
    let key = key.and_then(|key| match key {
        OrderKey::Header(name) => Some(Part::Header(name)),
        OrderKey::Attribute(name) => Some(Part::Attribute(name)),
        OrderKey::Subject(_) | OrderKey::Json(_) => None,
    });
    let time = latest.and_then(|latest| match &latest.time {
        OrderTime::Header(name) => Some(Part::Header(name)),
        OrderTime::Attribute(name) => Some(Part::Attribute(name)),
        OrderTime::Event | OrderTime::Json(_) => None,
    });
    let version = match &handler.schema.by {
        SchemaBy::Header(name) => Some(Part::Header(name)),
        SchemaBy::Attribute(name) => Some(Part::Attribute(name)),
        SchemaBy::DataSchema => None,
    };
    [dedup, key, time, version].into_iter().flatten()
}
