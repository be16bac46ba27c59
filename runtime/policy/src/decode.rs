//! From a message to an event: raw messages, `CloudEvents` in binary and structured mode, and queue
//! messages.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::arrival::{Arrival, Origin};
use crate::event::{Event, Headers};
use crate::headers;
use crate::id::{IdKind, Identity, Scope, Token};
use crate::manifest::{DedupKey, Format, Handler};
use crate::queue_message;

/// Why a message is not in the format that its handler expects.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Undecodable {
    /// The retry message's own headers are damaged.
    #[error("{0}")]
    Damaged(String),
    /// Neither headers nor content type say that it is a `CloudEvent`.
    #[error("not a CloudEvent: neither a ce-specversion header nor content type application/cloudevents+json")]
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
    time_ms: Option<u64>,
    content_type: Option<String>,
    data_schema: Option<String>,
    payload: Bytes,
}

/// Makes an event of an arrival.
///
/// # Errors
/// Says why the message is not in the handler's format, or that it has no `dedup.key`.
pub fn decode(arrival: &Arrival, handler: &Handler) -> Result<Event, Undecodable> {
    if let Some(damage) = &arrival.damage {
        return Err(Undecodable::Damaged(damage.clone()));
    }
    let content = match handler.format {
        Format::Raw => raw(arrival),
        Format::CloudEvents => cloud_event(arrival)?.ok_or(Undecodable::NotACloudEvent)?,
        Format::Queue => queue(arrival)?,
        Format::Auto => match cloud_event(arrival)? {
            Some(content) => content,
            None if queue_message::looks_like_one(&arrival.payload) => queue(arrival).unwrap_or_else(|_| raw(arrival)),
            None => raw(arrival),
        },
    };
    let (id_kind, id, token) = identify(arrival, handler, &content)?;
    Ok(Event {
        correlation_id: arrival.correlation_id.clone().unwrap_or_else(|| id.clone()),
        id,
        id_kind,
        token,
        subject: content.subject.unwrap_or_else(|| arrival.origin.subject.clone()),
        kind: content.kind,
        source: content.source,
        time_ms: content.time_ms.or(Some(arrival.origin.time_ms)),
        content_type: content.content_type,
        data_schema: content.data_schema,
        causation_id: arrival.causation_id.clone(),
        attempt: arrival.attempt,
        max_attempts: handler.retry.max_attempts,
        headers: arrival.headers.clone(),
        payload: content.payload,
    })
}

/// Who the event is: where its id comes from, the id, and what its other ids are derived from.
fn identify(
    arrival: &Arrival,
    handler: &Handler,
    content: &Decoded,
) -> Result<(IdKind, String, Token), Undecodable> {
    let own = || match &content.id {
        Some(id) => (IdKind::Given, headers::clean_id(id)),
        None => arrival.own_id(),
    };
    let key = handler.dedup.as_ref().map(|dedup| &dedup.key).filter(|key| **key != DedupKey::Id);
    let (kind, id) = match (&arrival.carried, key) {
        (Some(carried), _) => (carried.kind.unwrap_or_else(|| kind_before(arrival, key, &carried.id)), carried.id.clone()),
        (None, Some(key)) => (IdKind::Key, dedup_id(key, &arrival.headers, &content.payload)?),
        (None, None) => own(),
    };
    if let Some(token) = arrival.carried.as_ref().and_then(|carried| carried.token.clone()) {
        return Ok((kind, id, token));
    }
    let scope = match (kind, key) {
        (IdKind::Key, Some(key)) => &Scope::Key(key.to_string()),
        (IdKind::Given, _) => &content.scope,
        (IdKind::Key | IdKind::Position, _) => &Scope::Whole,
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

/// The value of a key that is not the event's own id: what the producer says makes two events the same.
fn dedup_id(key: &DedupKey, list: &Headers, payload: &[u8]) -> Result<String, Undecodable> {
    let found = match key {
        DedupKey::Id => None,
        DedupKey::Header(name) => headers::get_id(list, name),
        DedupKey::Json(pointer) => {
            let document: serde_json::Value = serde_json::from_slice(payload)
                .map_err(|error| Undecodable::Key(format!("{key} needs a JSON payload: {error}")))?;
            match document.pointer(pointer) {
                Some(serde_json::Value::String(text)) => {
                    Some(headers::clean_id(text)).filter(|_| !text.trim().is_empty())
                }
                Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => Some(value.to_string()),
                _ => None,
            }
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
        time_ms: None,
        content_type: headers::get(&arrival.headers, headers::CONTENT_TYPE).map(str::to_owned),
        data_schema: None,
        payload: arrival.payload.clone(),
    }
}

fn queue(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    let message = queue_message::parse(&arrival.payload).map_err(|error| Undecodable::Queue(error.to_string()))?;
    Ok(Decoded {
        id: Some(message.id).filter(|id| !id.trim().is_empty()),
        scope: Scope::Queue(message.queue),
        time_ms: parse_time(&message.dispatch_date).ok(),
        payload: arrival.payload.slice_ref(message.payload.get().as_bytes()),
        content_type: Some("application/json".into()),
        ..raw(arrival)
    })
}

/// Reads a `CloudEvent` of either mode; nothing where the message does not claim to be one.
fn cloud_event(arrival: &Arrival) -> Result<Option<Decoded>, Undecodable> {
    let content_type = headers::get(&arrival.headers, headers::CONTENT_TYPE).unwrap_or_default();
    if essence(content_type).eq_ignore_ascii_case("application/cloudevents+json") {
        structured(arrival).map(Some)
    } else if headers::get(&arrival.headers, "ce-specversion").is_some() {
        binary(arrival).map(Some)
    } else {
        Ok(None)
    }
}

fn binary(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    let attribute = |name: &str| attribute(&arrival.headers, name);
    check_version(&attribute("ce-specversion").unwrap_or_default())?;
    let source = required(attribute("ce-source"), "source")?;
    Ok(Decoded {
        id: Some(required(attribute("ce-id"), "id")?),
        scope: Scope::Source(source.clone()),
        kind: Some(required(attribute("ce-type"), "type")?),
        source: Some(source),
        time_ms: attribute("ce-time").map(|time| parse_time(&time)).transpose()?,
        content_type: attribute("ce-datacontenttype").or_else(|| raw(arrival).content_type),
        data_schema: attribute("ce-dataschema"),
        subject: None,
        payload: arrival.payload.clone(),
    })
}

/// The JSON event format, as far as we need it; extension attributes stay in the message.
#[derive(Deserialize)]
struct Structured<'a> {
    specversion: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    datacontenttype: Option<String>,
    #[serde(default)]
    dataschema: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
}

fn structured(arrival: &Arrival) -> Result<Decoded, Undecodable> {
    let fault = |what: &dyn std::fmt::Display| Undecodable::Structured(what.to_string());
    let parsed: Structured<'_> = serde_json::from_slice(&arrival.payload).map_err(|error| fault(&error))?;
    check_version(&parsed.specversion)?;
    let payload = match (parsed.data, parsed.data_base64) {
        (Some(_), Some(_)) => return Err(fault(&"both data and data_base64 are present")),
        (None, None) => Bytes::new(),
        (Some(data), None) => structured_data(arrival, data, parsed.datacontenttype.as_deref()),
        (None, Some(text)) => data_encoding::BASE64
            .decode(text.as_bytes())
            .map_err(|error| fault(&format_args!("data_base64: {error}")))?
            .into(),
    };
    let source = required(parsed.source, "source")?;
    Ok(Decoded {
        id: Some(required(parsed.id, "id")?),
        scope: Scope::Source(source.clone()),
        kind: Some(required(parsed.kind, "type")?),
        source: Some(source),
        time_ms: parsed.time.map(|time| parse_time(&time)).transpose()?,
        content_type: Some(parsed.datacontenttype.unwrap_or_else(|| "application/json".into())),
        data_schema: parsed.dataschema,
        subject: None,
        payload,
    })
}

/// The data of a structured event: JSON as it stands in the message; for any other media type, a JSON
/// string holds the text itself (JSON event format, section 3.1.1).
fn structured_data(arrival: &Arrival, data: &RawValue, content_type: Option<&str>) -> Bytes {
    let text = match content_type {
        Some(media_type) if !is_json(media_type) => serde_json::from_str::<String>(data.get()).ok(),
        _ => None,
    };
    text.map_or_else(|| arrival.payload.slice_ref(data.get().as_bytes()), Bytes::from)
}

/// Whether a media type says that the data is one JSON value; JSON lines and the like are not.
fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type).to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn check_version(version: &str) -> Result<(), Undecodable> {
    if version == "1" || version.starts_with("1.") { Ok(()) } else { Err(Undecodable::SpecVersion(version.to_owned())) }
}

fn required(value: Option<String>, name: &'static str) -> Result<String, Undecodable> {
    value.filter(|value| !value.is_empty()).ok_or(Undecodable::MissingAttribute(name))
}

/// An attribute's header with its percent-encoding undone (HTTP binding, section 3.1.3.2, which the
/// NATS binding adopts). What is not valid percent-encoding is taken as it stands.
fn attribute(headers: &Headers, name: &str) -> Option<String> {
    headers::get(headers, name).map(percent_decode)
}

/// Undoes percent-encoding where it is valid.
pub(crate) fn percent_decode(value: &str) -> String {
    if !value.contains('%') {
        return value.to_owned();
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| tail.get(..2)).flatten().and_then(hex_byte);
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

/// Reads an RFC 3339 time as milliseconds since the Unix epoch; times before it become 0.
fn parse_time(text: &str) -> Result<u64, Undecodable> {
    use time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &Rfc3339).map_err(|_| Undecodable::Time(text.to_owned()))?;
    Ok(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests;
