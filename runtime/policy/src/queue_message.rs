//! Queue messages: a JSON object with `id`, `queue`, `dispatch_date` and `payload`, and an `error` array
//! to which every failure is appended, so that consumers that know only this shape can read the history.

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::history::AttemptError;

/// The parts of a queue message that we read.
#[derive(Debug, Deserialize)]
pub struct QueueMessage<'a> {
    /// The message's id.
    pub id: String,
    /// The queue it was put in: a name, else the JSON text of whatever stands there.
    #[serde(deserialize_with = "text_of_any")]
    pub queue: String,
    /// When it was put there.
    pub dispatch_date: String,
    /// The data, as it stands in the message.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

/// A JSON string's text, or any other value as it is written.
fn text_of_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned()))
}

/// One entry of the `error` array.
#[derive(Debug, Serialize)]
struct ErrorEntry<'a> {
    status_code: Option<i32>,
    message: &'a str,
    stack_trace: Option<&'a str>,
    date: &'a str,
}

/// A cheap test that keeps other JSON from being parsed: whether the payload is an object that holds the
/// two names that hardly anything else has.
pub fn looks_like_one(payload: &[u8]) -> bool {
    let contains = |name: &[u8]| memchr::memmem::find(payload, name).is_some();
    payload.trim_ascii_start().first() == Some(&b'{') && contains(b"\"dispatch_date\"") && contains(b"\"queue\"")
}

/// Reads a queue message.
///
/// # Errors
/// Where the payload is not JSON, or a required member is missing or of another type.
pub fn parse(payload: &[u8]) -> Result<QueueMessage<'_>, serde_json::Error> {
    serde_json::from_slice(payload)
}

/// The most bytes that the `error` array may take. What does not fit is in the history header only, since an
/// event whose message outgrows what the server accepts could not even be dead-lettered.
const ERRORS_BYTES_MAX: usize = 64 * 1024;

/// The queue message with `error` appended to its `error` array, all else unchanged to the byte (white
/// space between members aside). Nothing where the payload is no queue message, or the array is full.
pub fn with_error(payload: &[u8], error: &AttemptError) -> Option<Bytes> {
    parse(payload).ok()?;
    let Members(mut members) = serde_json::from_slice(payload).ok()?;
    let error = error.clone().shortened();
    let entry = to_raw_value(&ErrorEntry {
        status_code: error.status_code,
        message: &error.message,
        stack_trace: error.stack_trace.as_deref(),
        date: &error.date,
    })
    .ok()?;
    // Of several members of one name, readers of JSON take the last.
    let present = members.iter_mut().rfind(|(name, _)| name == "error").map(|(_, value)| value);
    let mut entries = present.as_deref().map(|value| entries_of(value)).unwrap_or_default();
    entries.push(entry);
    let entries = to_raw_value(&entries).ok()?;
    if entries.get().len() > ERRORS_BYTES_MAX {
        return None;
    }
    match present {
        Some(value) => *value = entries,
        None => members.push(("error".into(), entries)),
    }
    render(&members)
}

/// What `error` holds already; a single error that somebody else put there becomes the first entry.
fn entries_of(error: &RawValue) -> Vec<Box<RawValue>> {
    match error.get() {
        "null" => Vec::new(),
        text => serde_json::from_str(text).unwrap_or_else(|_| vec![error.to_owned()]),
    }
}

fn render(members: &[(String, Box<RawValue>)]) -> Option<Bytes> {
    let mut text = String::from("{");
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(name).ok()?);
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    Some(text.into())
}

/// The members of an object in their order, each value as it stands in the text.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests;
