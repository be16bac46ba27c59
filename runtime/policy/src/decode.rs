//! From a message to an event: raw messages, `CloudEvents` in binary and structured mode, and queue
//! messages.

use bytes::Bytes;
use thiserror::Error;

use crate::arrival::Arrival;
use crate::cloud_event::{self, CloudEvent};
use crate::event::{Attributes, Event};
use crate::headers;
use crate::json_key::{self, Unreadable};
use crate::manifest::{DedupKey, Format, Handler};
use crate::order;
use crate::queue_message;

/// Why a message is not in the format that its handler expects.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Undecodable {
    /// The retry message's own headers are damaged.
    #[error("{0}")]
    Damaged(String),
    /// Neither headers nor content type nor payload say that it is a `CloudEvent`.
    #[error(
        "not a CloudEvent: neither a ce-specversion header, nor content type application/cloudevents+json, nor a JSON \
         object with specversion"
    )]
    NotACloudEvent,
    /// A required attribute is missing or empty.
    #[error("a CloudEvent without {0}, which is required")]
    MissingAttribute(&'static str),
    /// Another version of the specification.
    #[error("CloudEvents specversion {0:?}, only 1.x is known")]
    SpecVersion(String),
    /// The payload of a structured `CloudEvent` cannot be read.
    #[error("not a structured CloudEvent: {0}")]
    Structured(String),
    /// The payload is no queue message.
    #[error("not a queue message: {0}")]
    Queue(String),
    /// The event does not have what `dedup.key` names.
    #[error("dedup.key: {0}")]
    Key(String),
    /// The event is to be kept in order, and there is no telling among which.
    #[error(transparent)]
    OrderKey(#[from] order::KeyFault),
    /// A date cannot be read.
    #[error("the time {0:?} is not RFC 3339")]
    Time(String),
}

/// What a format makes of a message; the rest of an event is the same for all formats.
struct Decoded {
    id: Option<String>,
    subject: Option<String>,
    kind: Option<String>,
    source: Option<String>,
    time_ns: Option<i128>,
    content_type: Option<String>,
    data_schema: Option<String>,
    attributes: Attributes,
    payload: Bytes,
}

/// Makes an event of an arrival.
///
/// # Errors
/// Says why the message is not in the handler's format, that it has no `dedup.key`, or that there is no telling which
/// `order.key` it has.
pub fn decode(arrival: &Arrival, handler: &Handler) -> Result<Event, Undecodable> {
    if let Some(damage) = &arrival.damage {
        return Err(Undecodable::Damaged(damage.clone()));
    }
    let content = match handler.format {
        Format::Raw => raw(arrival),
        Format::CloudEvents => cloud_event(arrival)?,
        Format::Queue => queue(arrival)?,
        Format::Auto => recognised(arrival)?,
    };
    let id = match &arrival.carried_id {
        Some(id) => id.clone(),
        None => match handler.dedup.as_ref().map(|dedup| &dedup.key) {
            None | Some(DedupKey::Id) => {
                content.id.as_deref().map_or_else(|| arrival.fallback_id.clone(), headers::clean_id)
            }
            Some(key) => dedup_id(key, arrival, &content)?,
        },
    };
    let time_ns = content.time_ns.unwrap_or_else(|| i128::from(arrival.origin.time_ms) * 1_000_000);
    let event = Event {
        correlation_id: arrival.correlation_id.clone().unwrap_or_else(|| id.clone()),
        id,
        subject: content.subject.unwrap_or_else(|| arrival.origin.subject.clone()),
        kind: content.kind,
        source: content.source,
        // Times before 1970 become 0.
        time_ms: Some(u64::try_from(time_ns / 1_000_000).unwrap_or(0)),
        time_ns: Some(time_ns),
        content_type: content.content_type,
        data_schema: content.data_schema,
        attributes: content.attributes,
        causation_id: arrival.causation_id.clone(),
        attempt: arrival.attempt,
        max_attempts: handler.retry.max_attempts,
        headers: arrival.headers.clone(),
        payload: content.payload,
    };
    order::check(handler, arrival, &event)?;
    Ok(event)
}

/// What a message is taken for where the handler takes all formats.
fn recognised(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    if let Some(event) = cloud_event::declared(arrival)? {
        return event.try_into();
    }
    if queue_message::looks_like_one(&arrival.payload)
        && let Ok(message) = queue(arrival)
    {
        return Ok(message);
    }
    match cloud_event::by_shape(arrival, cloud_event::has_all_of_one)? {
        Some(event) => event.try_into(),
        None => Ok(raw(arrival)),
    }
}

fn cloud_event(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    let event = match cloud_event::declared(arrival)? {
        Some(event) => Some(event),
        None => cloud_event::by_shape(arrival, cloud_event::claims_to_be_one)?,
    };
    event.ok_or(Undecodable::NotACloudEvent)?.try_into()
}

impl TryFrom<CloudEvent> for Decoded {
    type Error = Undecodable;

    fn try_from(event: CloudEvent) -> Result<Decoded, Undecodable> {
        let CloudEvent { attributes, content_type, payload } = event;
        let get = |name: &str| attributes.get(name).cloned();
        Ok(Decoded {
            id: get("id"),
            subject: None,
            kind: get("type"),
            source: get("source"),
            time_ns: get("time").map(|time| parse_time(&time)).transpose()?,
            content_type,
            data_schema: get("dataschema"),
            attributes,
            payload,
        })
    }
}

/// The value of a key that is not the event's own id: what the producer says makes two events the same.
fn dedup_id(key: &DedupKey, arrival: &Arrival, content: &Decoded) -> Result<String, Undecodable> {
    let found = match key {
        DedupKey::Id => None,
        DedupKey::Header(name) => {
            let value = cloud_event::header(&arrival.headers, &content.attributes, name);
            value.filter(|id| !id.trim().is_empty()).map(headers::clean_id)
        }
        DedupKey::Attribute(name) => {
            let value = content.attributes.get(name).map(String::as_str);
            value.filter(|id| !id.trim().is_empty()).map(headers::clean_id)
        }
        DedupKey::Json(pointer) => {
            let found = json_key::find(&content.payload, pointer).map_err(|error| match error {
                Unreadable::NoJson { .. } => Undecodable::Key(format!("{key} needs a JSON payload: {error}")),
                _ => Undecodable::Key(format!("{key} cannot be read: {error}")),
            })?;
            found.filter(|key| !key.is_blank()).map(|key| headers::clean_id(key.canonical()))
        }
    };
    found.ok_or_else(|| Undecodable::Key(format!("the event has no {key}, or it is blank, null, a list or an object")))
}

fn raw(arrival: &Arrival) -> Decoded {
    Decoded {
        id: None,
        subject: None,
        kind: None,
        source: None,
        time_ns: None,
        content_type: headers::get(&arrival.headers, headers::CONTENT_TYPE).map(str::to_owned),
        data_schema: None,
        attributes: Attributes::new(),
        payload: arrival.payload.clone(),
    }
}

fn queue(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    let message = queue_message::parse(&arrival.payload).map_err(|error| Undecodable::Queue(error.to_string()))?;
    Ok(Decoded {
        id: Some(message.id).filter(|id| !id.trim().is_empty()),
        time_ns: parse_time(&message.dispatch_date).ok(),
        payload: arrival.payload.slice_ref(message.payload.get().as_bytes()),
        content_type: Some("application/json".into()),
        ..raw(arrival)
    })
}

/// Reads an RFC 3339 time as nanoseconds since the Unix epoch.
fn parse_time(text: &str) -> Result<i128, Undecodable> {
    use time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &Rfc3339).map_err(|_| Undecodable::Time(text.to_owned()))?;
    Ok(time.unix_timestamp_nanos())
}

#[cfg(test)]
mod tests;
