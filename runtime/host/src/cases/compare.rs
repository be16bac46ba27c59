//! What came of a case against what is expected, as sentences for people.

use serde_json::Value as Json;
use tidemill_policy::decide::{Decision, Failure, Setback};
use tidemill_policy::event::Output;
use tidemill_policy::headers;

use super::file::{COMPLETED, Expected, ExpectedOutput, Payload};
use crate::rehearse::Rehearsal;

/// The most differences of one case that are told.
const DIFFERENCES_MAX: usize = 20;
/// How much of a text is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// All that is not as expected; nothing where the case passed.
pub(super) fn differences(expected: &Expected, rehearsal: &Rehearsal) -> Vec<String> {
    let (failure, outputs): (Option<&Failure>, &[Output]) = match &rehearsal.decision {
        Decision::Publish(outputs) => (None, outputs),
        Decision::Fail(Setback::Retry { failure, .. } | Setback::DeadLetter(failure)) => (Some(failure), &[]),
    };
    let outcome = failure.map_or(COMPLETED, |failure| failure.kind.name());
    let happened =
        failure.map_or_else(|| outcome.to_owned(), |failure| format!("{outcome}: {}", shown(&failure.message)));
    if let Some(expected) = expected.outcome.as_deref().filter(|expected| *expected != outcome) {
        // All else would only follow from this.
        return vec![format!("outcome: expected {expected}, got {happened}")];
    }
    let mut found = Vec::new();
    if let Some(part) = &expected.message
        && !failure.is_some_and(|failure| failure.message.contains(part))
    {
        found.push(format!("message: expected one that says {}, got {happened}", quoted(part)));
    }
    if let Some(expected) = &expected.outputs {
        compare_outputs(expected, outputs, &mut found);
    }
    let omitted = found.len().saturating_sub(DIFFERENCES_MAX);
    if omitted > 0 {
        found.truncate(DIFFERENCES_MAX);
        found.push(format!("and {omitted} more"));
    }
    found
}

fn compare_outputs(expected: &[ExpectedOutput], outputs: &[Output], found: &mut Vec<String>) {
    if expected.len() != outputs.len() {
        let subjects: Vec<_> = outputs.iter().map(|output| output.subject.as_str()).collect();
        let on = if subjects.is_empty() { String::new() } else { format!(", on {}", shown(&subjects.join(", "))) };
        found.push(format!("outputs: expected {}, got {}{on}", expected.len(), outputs.len()));
    }
    for (index, (expected, output)) in expected.iter().zip(outputs).enumerate() {
        let path = format!("outputs[{index}]");
        let texts = [
            ("subject", &expected.subject, Some(output.subject.as_str())),
            ("kind", &expected.kind, output.kind.as_deref()),
            ("content_type", &expected.content_type, output.content_type.as_deref()),
        ];
        for (key, expected, got) in texts {
            if let Some(expected) = expected.as_deref().filter(|expected| Some(*expected) != got) {
                let got = got.map_or_else(|| "none".to_owned(), quoted);
                found.push(format!("{path}.{key}: expected {}, got {got}", quoted(expected)));
            }
        }
        for (name, value) in &expected.headers {
            let is_there =
                output.headers.iter().any(|(other, found)| other.eq_ignore_ascii_case(name) && found == value);
            if !is_there {
                let got = headers::get(&output.headers, name).map_or_else(|| "none".to_owned(), quoted);
                found.push(format!("{path}.headers.{name}: expected {}, got {got}", quoted(value)));
            }
        }
        match &expected.payload {
            Some(Payload::Text(text)) if text.as_bytes() != &*output.payload => {
                found.push(format!("{path}.payload: expected {}, got {}", quoted(text), payload(output)));
            }
            Some(Payload::Json(json)) => match serde_json::from_slice(&output.payload) {
                Ok(got) => compare_json(json, &got, &format!("{path}.json"), found),
                Err(_) => found.push(format!("{path}.json: expected JSON, got {}", payload(output))),
            },
            _ => {}
        }
    }
}

fn compare_json(expected: &Json, got: &Json, path: &str, found: &mut Vec<String>) {
    match (expected, got) {
        (Json::Object(expected), Json::Object(got)) => {
            for (key, value) in expected {
                match got.get(key) {
                    Some(got) => compare_json(value, got, &format!("{path}.{key}"), found),
                    None => found.push(format!("{path}.{key}: expected {}, got none", shown(&value.to_string()))),
                }
            }
            for (key, value) in got.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                found.push(format!("{path}.{key}: expected none, got {}", shown(&value.to_string())));
            }
        }
        (Json::Array(expected), Json::Array(got)) => {
            if expected.len() != got.len() {
                found.push(format!("{path}: expected {} entries, got {}", expected.len(), got.len()));
            }
            for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
                compare_json(expected, got, &format!("{path}[{index}]"), found);
            }
        }
        _ if expected != got => {
            found.push(format!("{path}: expected {}, got {}", shown(&expected.to_string()), shown(&got.to_string())));
        }
        _ => {}
    }
}

fn payload(output: &Output) -> String {
    match std::str::from_utf8(&output.payload) {
        Ok(text) => quoted(text),
        Err(_) => format!("{} bytes that are no text", output.payload.len()),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", shown(text))
}

/// A text, cut where it is long.
fn shown(text: &str) -> String {
    match text.floor_char_boundary(SHOWN_BYTES_MAX) {
        end if end < text.len() => format!("{} …", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
