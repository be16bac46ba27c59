//! Order by key: what the key of an event is, how the server spreads keys over partitions, and who may run next.

pub mod lanes;

use thiserror::Error;

use crate::arrival::Arrival;
use crate::cloud_event::{self, NO_ATTRIBUTES};
use crate::event::Event;
use crate::id::Token;
use crate::json_key;
use crate::manifest::{Handler, KeyOrder, OnFailure, OrderKey};
use crate::publication::retry_due_subject;

/// The tokens of a partitioned subject before the original one: prefix, `order`, handler, partition.
const PARTITION_TOKENS: usize = 4;

/// Why there is no telling which key an event has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("order.key: the event's {key} cannot be read: {why}")]
pub struct KeyFault {
    /// The key, as the manifest names it.
    pub key: String,
    /// Why.
    pub why: String,
}

/// The key of an event. Events that have none share one, which is empty: nothing is said about what they have to do
/// with each other, so they are kept in order too. Of a message that could not be decoded there is no event.
///
/// # Errors
/// Where the event may have a key, and there is no telling which: it must not run beside others.
pub fn key(order: &KeyOrder, arrival: &Arrival, event: Option<&Event>) -> Result<String, KeyFault> {
    let fault = |why: String| KeyFault { key: order.key.to_string(), why };
    let undecoded = || fault("the message could not be decoded".to_owned());
    let attributes = event.map_or(&NO_ATTRIBUTES, |event| &event.attributes);
    let key = match &order.key {
        OrderKey::Subject(number) => arrival.origin.subject.split('.').nth(number - 1).map(str::to_owned),
        OrderKey::Header(name) => cloud_event::header(&arrival.headers, attributes, name).map(str::to_owned),
        OrderKey::Attribute(name) => event.ok_or_else(undecoded)?.attributes.get(name).cloned(),
        OrderKey::Json(pointer) => {
            let payload = &event.ok_or_else(undecoded)?.payload;
            let found = json_key::find(payload, pointer).map_err(|why| fault(why.to_string()))?;
            found.map(|key| key.canonical().into_owned())
        }
    };
    Ok(key.unwrap_or_default())
}

/// Checks that there is telling which key an event has, where it is to be kept in order.
///
/// # Errors
/// Says why there is none.
pub(crate) fn check(handler: &Handler, arrival: &Arrival, event: &Event) -> Result<(), KeyFault> {
    match handler.key_order() {
        // All others can be read of every event.
        Some(order) if matches!(order.key, OrderKey::Json(_)) => key(order, arrival, Some(event)).map(|_| ()),
        _ => Ok(()),
    }
}

/// The partition of a key, as the server's subject transform `partition` computes it: FNV-1a with 32 bits, modulo the
/// number of partitions.
pub fn partition(key: &str, count: u32) -> u32 {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let hash = key.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
    hash % count.max(1)
}

/// What the events of one partition are selected by.
pub fn partition_filter(prefix: &str, handler: &str, number: u32) -> String {
    format!("{prefix}.order.{handler}.{number}.>")
}

/// All subjects of a handler's partitions.
pub fn partition_space(prefix: &str, handler: &str) -> String {
    format!("{prefix}.order.{handler}.>")
}

/// The subject on which an event is put into the partition of its key.
pub fn partitioned_subject(prefix: &str, handler: &str, number: u32, subject: &str) -> String {
    format!("{prefix}.order.{handler}.{number}.{subject}")
}

/// The subject on which an event comes back to its handler, so that it keeps its order among those of its key: into
/// its partition, or with the retries.
pub fn return_subject(
    prefix: &str,
    name: &str,
    handler: Option<&Handler>,
    subject: &str,
    token: Option<&Token>,
) -> String {
    let placed = handler.and_then(|handler| Some((handler.key_order()?, handler.partitions()?)));
    match placed {
        // Its partition is held up until it has come back.
        Some((KeyOrder { on_failure: OnFailure::Park, .. }, _)) => retry_due_subject(prefix, name, token),
        Some((KeyOrder { key: OrderKey::Subject(number), .. }, count)) => {
            let key = subject.split('.').nth(number - 1).unwrap_or_default();
            partitioned_subject(prefix, name, partition(key, count), subject)
        }
        _ => retry_due_subject(prefix, name, token),
    }
}

/// The subject that an event had before it was put into a partition.
pub fn original_subject(partitioned: &str) -> &str {
    partitioned.splitn(PARTITION_TOKENS + 1, '.').nth(PARTITION_TOKENS).unwrap_or(partitioned)
}

/// A rule by which the server moves messages into partitions: messages on `source` are stored as `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// Which messages.
    pub source: String,
    /// Where they go, in the server's notation for subject transforms.
    pub target: String,
}

/// The rules that move the events of a handler into `count` partitions, by the token of their subject with this
/// number. The server hashes wildcards only, so `>` is taken apart where the token lies behind it; what is too short
/// to have the token goes where the empty key belongs.
pub fn transforms(prefix: &str, handler: &str, subjects: &[String], number: usize, count: u32) -> Vec<Transform> {
    let expanded = subjects.iter().flat_map(|pattern| expand(pattern, number));
    expanded.map(|source| Transform { target: target(prefix, handler, &source, number, count), source }).collect()
}

/// The patterns that together select what `pattern` does, of which each has the token or is too short for it.
fn expand(pattern: &str, number: usize) -> Vec<String> {
    let tokens: Vec<&str> = pattern.split('.').collect();
    let Some((&">", fixed)) = tokens.split_last() else { return vec![pattern.to_owned()] };
    if fixed.len() >= number {
        return vec![pattern.to_owned()];
    }
    let with_stars = |length: usize| {
        let mut tokens = fixed.to_vec();
        tokens.resize(length, "*");
        tokens.join(".")
    };
    let mut expanded: Vec<_> = (fixed.len() + 1..=number).map(with_stars).collect();
    expanded.push(format!("{}.>", with_stars(number)));
    expanded
}

fn target(prefix: &str, handler: &str, source: &str, number: usize, count: u32) -> String {
    let (mut wildcards, mut partition_of_key) = (0, partition("", count).to_string());
    let mut tokens = Vec::new();
    for (index, token) in source.split('.').enumerate() {
        let is_key = index + 1 == number;
        if token == "*" {
            wildcards += 1;
            tokens.push(format!("{{{{wildcard({wildcards})}}}}"));
            if is_key {
                partition_of_key = format!("{{{{partition({count},{wildcards})}}}}");
            }
        } else {
            tokens.push(token.to_owned());
            if is_key && token != ">" {
                partition_of_key = partition(token, count).to_string();
            }
        }
    }
    format!("{prefix}.order.{handler}.{partition_of_key}.{}", tokens.join("."))
}

/// Whether everything that the server has delivered and not seen settled is in hand, so that nothing older can
/// arrive any more. `pending` and `delivered` are what the server says: how many messages are not settled, and the
/// last one that was delivered. `before` and `after` are the messages in hand when the server was asked and when it
/// had answered.
pub fn is_all_in_hand(pending: u64, delivered: u64, before: &[u64], after: &[u64]) -> bool {
    let count = |held: &[u64]| held.iter().filter(|sequence| **sequence <= delivered).count() as u64;
    // While something is settled or arrives, the answer may be about either.
    count(before) == pending && count(after) == pending
}

#[cfg(test)]
mod tests;
