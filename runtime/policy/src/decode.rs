//! From a message to an event: raw messages, `CloudEvents` in binary and structured mode, and queue
//! messages.

use bytes::Bytes;
use thiserror::Error;

use crate::arrival::{Arrival, Origin};
use crate::cloud_event::{self, CloudEvent};
use crate::event::{Attributes, Event};
use crate::headers;
use crate::id::{IdKind, Identity, Scope, Token};
use crate::json_key::{self, JsonKind, Unreadable};
use crate::manifest::{DedupKey, Format, Handler};
use crate::order;
use crate::queue_message;
use crate::reads;

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
    /// Within what the id is unique.
    scope: Scope,
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
    if let Some(name) = unsendable(arrival, handler) {
        return Err(Undecodable::Damaged(format!(
            "its header {name}, which the manifest names, contains a character that no retry could carry"
        )));
    }
    let content = match handler.format {
        Format::Raw => raw(arrival),
        Format::CloudEvents => cloud_event(arrival)?,
        Format::Queue => queue(arrival)?,
        Format::Auto => recognised(arrival)?,
    };
    let (id_kind, id, token) = identify(arrival, handler, &content)?;
    let time_ns = content.time_ns.unwrap_or_else(|| i128::from(arrival.origin.time_ms) * 1_000_000);
    let event = Event {
        correlation_id: arrival.correlation_id.clone().unwrap_or_else(|| id.clone()),
        id,
        id_kind,
        token,
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

/// A header that the manifest names, and that the next attempt could not be sent with.
fn unsendable<'a>(arrival: &'a Arrival, handler: &Handler) -> Option<&'a str> {
    let damaged = |(name, value): &&(String, String)| !headers::is_valid_value(value) && reads::is_named(handler, name);
    arrival.headers.iter().find(damaged).map(|(name, _)| name.as_str())
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
            scope: get("source").map_or(Scope::Whole, Scope::Source),
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

/// Who the event is: where its id comes from, the id, and what its other ids are derived from.
fn identify(arrival: &Arrival, handler: &Handler, content: &Decoded) -> Result<(IdKind, String, Token), Undecodable> {
    let own = || match &content.id {
        Some(id) => (IdKind::Given, headers::clean_id(id)),
        None => arrival.own_id(),
    };
    let key = handler.dedup.as_ref().map(|dedup| &dedup.key).filter(|key| **key != DedupKey::Id);
    let mut of_key = Scope::Whole;
    let (kind, id) = match (&arrival.carried, key) {
        (Some(carried), _) => {
            let kind = carried.kind.unwrap_or_else(|| kind_before(arrival, key, &carried.id));
            // The version before did not say of which kind the key was; the event itself does.
            if let (None, IdKind::Key, Some(key)) = (&carried.token, kind, key)
                && let Ok(found) = dedup_id(key, arrival, content)
            {
                of_key = Scope::Key(format!("{key} {}", found.kind));
            }
            (kind, carried.id.clone())
        }
        (None, Some(key)) => {
            let found = dedup_id(key, arrival, content)?;
            of_key = Scope::Key(format!("{key} {}", found.kind));
            (IdKind::Key, found.id)
        }
        (None, None) => own(),
    };
    if let Some(token) = arrival.carried.as_ref().and_then(|carried| carried.token.clone()) {
        return Ok((kind, id, token));
    }
    let scope = match kind {
        IdKind::Key => &of_key,
        IdKind::Given => &content.scope,
        IdKind::Position => &Scope::Whole,
    };
    let place = handler.dedup.is_none().then(|| arrival.place());
    let identity = Identity { kind, scope, id: &id, place: place.as_ref() };
    let token = Token::of(&handler.prefix, &handler.name, &identity);
    Ok((kind, id, token))
}

/// Where the id comes from that a retry of the version before carries.
fn kind_before(arrival: &Arrival, key: Option<&DedupKey>, id: &str) -> IdKind {
    let Origin { stream, sequence, .. } = &arrival.origin;
    let is_place = id.starts_with(&format!("{stream}@")) && id.ends_with(&format!(":{sequence}"));
    match key {
        Some(_) => IdKind::Key,
        None if is_place => IdKind::Position,
        None => IdKind::Given,
    }
}

/// The value of a key, and what kind of value it is: a text and a number are two keys, though they look the same.
struct KeyValue {
    id: String,
    kind: &'static str,
}

/// The value of a key that is not the event's own id: what the producer says makes two events the same.
fn dedup_id(key: &DedupKey, arrival: &Arrival, content: &Decoded) -> Result<KeyValue, Undecodable> {
    let text = |value: &str| {
        Some(KeyValue { id: headers::clean_id(value), kind: "text" }).filter(|_| !value.trim().is_empty())
    };
    let found = match key {
        DedupKey::Id => None,
        DedupKey::Header(name) => cloud_event::header(&arrival.headers, &content.attributes, name).and_then(text),
        DedupKey::Attribute(name) => content.attributes.get(name).and_then(|value| text(value)),
        DedupKey::Json(pointer) => {
            let found = json_key::find(&content.payload, pointer).map_err(|error| match error {
                Unreadable::NoJson { .. } => Undecodable::Key(format!("{key} needs a JSON payload: {error}")),
                _ => Undecodable::Key(format!("{key} cannot be read: {error}")),
            })?;
            found.filter(|key| !key.is_blank()).map(|key| KeyValue {
                id: headers::clean_id(&key.text),
                kind: match key.kind {
                    JsonKind::String => "text",
                    JsonKind::Number => "number",
                    JsonKind::Boolean => "boolean",
                },
            })
        }
    };
    found.ok_or_else(|| Undecodable::Key(format!("the event has no {key}, or it is blank, null, a list or an object")))
}

fn raw(arrival: &Arrival) -> Decoded {
    Decoded {
        id: None,
        scope: Scope::Whole,
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
        scope: Scope::Queue(message.queue),
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
