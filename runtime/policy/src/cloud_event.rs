//! `CloudEvents` in both modes: binary, where attributes are headers, and structured, where they are members of a JSON
//! object. Both give the same attributes, extensions included, so that a key names the same thing in either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::arrival::Arrival;
use crate::decode::Undecodable;
use crate::event::{Attributes, Headers};
use crate::headers;

/// What the headers of a binary event begin with.
const HEADER_PREFIX: &str = "ce-";
/// The attributes that the specification names; they are strings.
const CORE: [&str; 8] = ["specversion", "id", "type", "source", "subject", "time", "datacontenttype", "dataschema"];
/// The members of a structured event that hold its data.
const DATA: [&str; 2] = ["data", "data_base64"];

/// A `CloudEvent` as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloudEvent {
    /// All attributes in their string form; of those that it must have, none is missing or empty.
    pub(crate) attributes: Attributes,
    /// The media type of the data.
    pub(crate) content_type: Option<String>,
    /// The data.
    pub(crate) payload: Bytes,
}

/// Reads a message that says itself that it is a `CloudEvent`; nothing where it does not.
///
/// # Errors
/// Says why it is none.
pub(crate) fn declared(arrival: &Arrival) -> Result<Option<CloudEvent>, Undecodable> {
    let content_type = headers::get(&arrival.headers, headers::CONTENT_TYPE).unwrap_or_default();
    if essence(content_type).eq_ignore_ascii_case("application/cloudevents+json") {
        structured(arrival, &members(&arrival.payload).map_err(Undecodable::Structured)?).map(Some)
    } else if headers::get(&arrival.headers, "ce-specversion").is_some() {
        binary(arrival).map(Some)
    } else {
        Ok(None)
    }
}

/// Reads a message that looks like a structured event: an object of which `is_one` says that it is. Nothing where it
/// does not look like one.
///
/// # Errors
/// Says why it is none although it looks like one.
pub(crate) fn by_shape(
    arrival: &Arrival,
    is_one: impl FnOnce(&Members<'_>) -> bool,
) -> Result<Option<CloudEvent>, Undecodable> {
    // Keeps other payloads from being parsed.
    let text = without_mark(&arrival.payload);
    let may_be_one =
        text.trim_ascii_start().first() == Some(&b'{') && memchr::memmem::find(text, b"\"specversion\"").is_some();
    match may_be_one.then(|| members(&arrival.payload)) {
        Some(Ok(members)) if is_one(&members) => structured(arrival, &members).map(Some),
        _ => Ok(None),
    }
}

/// Whether an object is a structured event beyond doubt: it is of a version that we know, and names what every event
/// has.
pub(crate) fn has_all_of_one(members: &Members<'_>) -> bool {
    let is_known = members.string("specversion").is_some_and(|version| is_known_version(&version));
    is_known && ["id", "type", "source"].iter().all(|name| members.last(name).is_some())
}

/// Whether an object claims to be a structured event.
pub(crate) fn claims_to_be_one(members: &Members<'_>) -> bool {
    members.last("specversion").is_some()
}

fn binary(arrival: &Arrival) -> Result<CloudEvent, Undecodable> {
    let mut attributes = Attributes::new();
    for (name, value) in &arrival.headers {
        if let Some(name) = attribute_of(name) {
            // Of several headers of one name, the first counts.
            attributes.entry(name).or_insert_with(|| percent_decode(value));
        }
    }
    check_required(&attributes)?;
    let content_type = attributes.get("datacontenttype").cloned();
    let content_type =
        content_type.or_else(|| headers::get(&arrival.headers, headers::CONTENT_TYPE).map(str::to_owned));
    if let Some(content_type) = &content_type {
        attributes.insert("datacontenttype".to_owned(), content_type.clone());
    }
    Ok(CloudEvent { attributes, content_type, payload: arrival.payload.clone() })
}

/// The attribute that a header of a binary event holds.
fn attribute_of(header: &str) -> Option<String> {
    let (prefix, name) = header.split_at_checked(HEADER_PREFIX.len())?;
    (prefix.eq_ignore_ascii_case(HEADER_PREFIX) && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

fn structured(arrival: &Arrival, members: &Members<'_>) -> Result<CloudEvent, Undecodable> {
    let fault = |what: &dyn fmt::Display| Undecodable::Structured(what.to_string());
    let mut attributes = Attributes::new();
    for (name, value) in &members.0 {
        let key = name.to_ascii_lowercase();
        if DATA.contains(&name.as_ref()) || (CORE.contains(&key.as_str()) && key != name.as_ref()) {
            continue;
        }
        let is_core = CORE.contains(&key.as_str());
        match string_form(value, is_core).map_err(|error| fault(&format_args!("its {name:?}: {error}")))? {
            Some(_) if is_core && attributes.contains_key(&key) => {
                return Err(fault(&format_args!("duplicate member {name:?}")));
            }
            Some(text) => attributes.insert(key, text),
            None => attributes.remove(&key),
        };
    }
    check_required(&attributes)?;
    let content_type = attributes.get("datacontenttype").cloned();
    let payload = data(arrival, members, content_type.as_deref()).map_err(|error| fault(&error))?;
    let content_type = Some(content_type.unwrap_or_else(|| "application/json".into()));
    Ok(CloudEvent { attributes, content_type, payload })
}

/// The string form of an attribute: numbers and booleans as they are written. Nothing where it is null, a list or an
/// object, which no attribute is.
fn string_form(value: &RawValue, must_be_string: bool) -> Result<Option<String>, String> {
    match value.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(value.get()).map(Some).map_err(|error| error.to_string()),
        Some(b'n') => Ok(None),
        _ if must_be_string => Err("it is not a string".to_owned()),
        Some(b'[' | b'{') => Ok(None),
        _ => Ok(Some(value.get().to_owned())),
    }
}

/// The data of a structured event. It is null only where the event says so; without data, it is empty.
fn data(arrival: &Arrival, members: &Members<'_>, content_type: Option<&str>) -> Result<Bytes, String> {
    let base64 = members.only("data_base64")?.filter(|text| text.get() != "null");
    match (members.only("data")?, base64) {
        (Some(data), Some(_)) if data.get() != "null" => Err("both data and data_base64 are present".to_owned()),
        (_, Some(text)) => {
            let text: Cow<'_, str> =
                serde_json::from_str(text.get()).map_err(|error| format!("data_base64: {error}"))?;
            let bytes = data_encoding::BASE64.decode(text.as_bytes());
            bytes.map(Bytes::from).map_err(|error| format!("data_base64: {error}"))
        }
        (None, None) => Ok(Bytes::new()),
        (Some(data), None) => Ok(json_data(arrival, data, content_type)),
    }
}

/// JSON as it stands in the message; for any other media type, a JSON string holds the text itself (JSON event
/// format, section 3.1.1).
fn json_data(arrival: &Arrival, data: &RawValue, content_type: Option<&str>) -> Bytes {
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

fn is_known_version(version: &str) -> bool {
    version == "1" || version.starts_with("1.")
}

/// Checks that an event has what every event must have.
fn check_required(attributes: &Attributes) -> Result<(), Undecodable> {
    let version = attributes.get("specversion").ok_or(Undecodable::MissingAttribute("specversion"))?;
    if !is_known_version(version) {
        return Err(Undecodable::SpecVersion(version.clone()));
    }
    let is_missing = |name: &&str| attributes.get(*name).is_none_or(String::is_empty);
    match ["id", "type", "source"].into_iter().find(is_missing) {
        Some(name) => Err(Undecodable::MissingAttribute(name)),
        None => Ok(()),
    }
}

/// The value of a header as policy reads it: where the event is a `CloudEvent`, a header that begins with `ce-` is
/// the attribute, whichever mode the event has.
pub(crate) fn header<'a>(list: &'a Headers, attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    match attribute_of(name) {
        Some(attribute) if !attributes.is_empty() => attributes.get(&attribute).map(String::as_str),
        _ => headers::get(list, name),
    }
}

/// Undoes percent-encoding where it is valid (HTTP binding, section 3.1.3.2, which the NATS binding adopts).
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

/// The members of an object in their order, each value as it stands in the text.
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The last member of a name, as readers of JSON take it.
    fn last(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The member of a name that may occur once only.
    fn only(&self, name: &str) -> Result<Option<&'a RawValue>, String> {
        let mut all = self.0.iter().filter(|(key, _)| key == name);
        let first = all.next();
        if all.next().is_some() {
            return Err(format!("duplicate member {name:?}"));
        }
        Ok(first.map(|(_, value)| *value))
    }

    fn string(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.last(name)?.get()).ok()
    }
}

/// Reads the members of an object; a byte order mark ahead of it is no part of it.
fn members(payload: &[u8]) -> Result<Members<'_>, String> {
    serde_json::from_slice(without_mark(payload)).map_err(|error| error.to_string())
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A name, borrowed where it has no escapes.
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// No attributes, of an event that is no `CloudEvent`.
pub(crate) static NO_ATTRIBUTES: Attributes = BTreeMap::new();

#[cfg(test)]
mod tests;
