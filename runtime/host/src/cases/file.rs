//! From files to cases: everything that is wrong in them is told at once, with file and key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;
use tidemill_policy::arrival::Message;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::event::Headers;
use tidemill_policy::headers;
use tidemill_policy::history::Kind;
use tidemill_policy::manifest::{Format, Handler, nearest};

use super::{CaseFault, CasesError};
use crate::invoker::Seed;
use crate::rehearse::{Scene, parse_clock, parse_seed, subject_of};

/// The most cases of one component.
const CASES_MAX: usize = 1000;
/// The largest file of a case, and the largest payload beside it, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The time of day that a handler sees where its case names none: the beginning of 2026.
const CLOCK_MS: u64 = 1_767_225_600_000;
/// Where its random numbers come from then.
const SEED: Seed = [0; 32];
/// Where events of some kind come from, where the case does not say.
const SOURCE: &str = "/tidemill/cases";

const TABLES: &[&str] = &["event", "expect"];
const EVENT: &[&str] =
    &["subject", "headers", "payload", "payload_file", "json", "id", "kind", "time", "attempt", "clock", "seed"];
const EXPECT: &[&str] = &["outcome", "message", "outputs"];
const OUTPUT: &[&str] = &["subject", "kind", "content_type", "headers", "payload", "json"];
/// The outcome of an event that was handled; all others are the kinds of failures.
pub(super) const COMPLETED: &str = "completed";
const FAILURES: [Kind; 13] = [
    Kind::Retry,
    Kind::Reject,
    Kind::Timeout,
    Kind::Fuel,
    Kind::Memory,
    Kind::Trap,
    Kind::Output,
    Kind::Undecodable,
    Kind::Payload,
    Kind::Schema,
    Kind::Attempts,
    Kind::Expired,
    Kind::Stale,
];

/// One case, ready to be run.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) scene: Scene,
    pub(super) expected: Expected,
}

/// What must come of a case; what is not named may be anything.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// `completed`, or the name of a failure's kind.
    pub(super) outcome: Option<String>,
    /// A part of the failure's message.
    pub(super) message: Option<String>,
    /// All outputs, in order.
    pub(super) outputs: Option<Vec<ExpectedOutput>>,
}

/// What an output must be; what is not named may be anything.
#[derive(Debug, Default)]
pub(super) struct ExpectedOutput {
    pub(super) subject: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) content_type: Option<String>,
    /// These must be among its headers.
    pub(super) headers: Headers,
    pub(super) payload: Option<Payload>,
}

/// What an output's payload must be.
#[derive(Debug)]
pub(super) enum Payload {
    /// This text.
    Text(String),
    /// This value, in whichever notation.
    Json(Json),
}

/// A case as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseTable {
    event: EventTable,
    expect: ExpectTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTable {
    subject: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMore>,
    payload: Option<String>,
    payload_file: Option<PathBuf>,
    json: Option<toml::Value>,
    id: Option<String>,
    kind: Option<String>,
    time: Option<toml::Value>,
    attempt: Option<u32>,
    clock: Option<toml::Value>,
    seed: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectTable {
    outcome: Option<String>,
    message: Option<String>,
    outputs: Option<Vec<OutputTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputTable {
    subject: Option<String>,
    kind: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMore>,
    payload: Option<String>,
    json: Option<toml::Value>,
}

/// The values of a header.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Reads the cases in a folder, in the order of their names.
pub(super) fn read_all(folder: &Path, handler: &Handler) -> Result<Vec<Case>, CasesError> {
    let unreadable = |error: io::Error| {
        CasesError(vec![CaseFault { file: folder.to_owned(), message: format!("cannot be read: {error}") }])
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    paths.sort();
    if paths.len() > CASES_MAX {
        let message = format!("holds {} cases, of {CASES_MAX} at most", paths.len());
        return Err(CasesError(vec![CaseFault { file: folder.to_owned(), message }]));
    }
    let (mut cases, mut faults) = (Vec::new(), Vec::new());
    for file in paths {
        match read(&file, handler) {
            Ok(case) => cases.push(case),
            Err(messages) => {
                faults.extend(messages.into_iter().map(|message| CaseFault { file: file.clone(), message }));
            }
        }
    }
    if faults.is_empty() { Ok(cases) } else { Err(CasesError(faults)) }
}

fn read(file: &Path, handler: &Handler) -> Result<Case, Vec<String>> {
    let text = read_bytes(file).map_err(|why| vec![why])?;
    let text = String::from_utf8(text).map_err(|error| vec![format!("is not UTF-8: {error}")])?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let CaseTable { event, expect } = parse(&text)?;
    let scene = scene(event, &name, file, handler).map_err(|why| vec![format!("event.{why}")])?;
    let expected = expected(expect).map_err(|why| vec![format!("expect{why}")])?;
    Ok(Case { name, file: file.to_owned(), scene, expected })
}

fn read_bytes(file: &Path) -> Result<Vec<u8>, String> {
    let size = fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("has {size} bytes, of {FILE_BYTES_MAX} at most"));
    }
    fs::read(file).map_err(|error| format!("cannot be read: {error}"))
}

fn parse(text: &str) -> Result<CaseTable, Vec<String>> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| vec![format!("not valid TOML: {error}")])?;
    let mut unknown = Vec::new();
    check_keys(&table, "", TABLES, &mut unknown);
    for (name, known) in [("event", EVENT), ("expect", EXPECT)] {
        if let Some(toml::Value::Table(table)) = table.get(name) {
            check_keys(table, &format!("{name}."), known, &mut unknown);
        }
    }
    let outputs = table.get("expect").and_then(|expect| expect.get("outputs")).and_then(toml::Value::as_array);
    for (index, output) in outputs.into_iter().flatten().enumerate() {
        if let toml::Value::Table(output) = output {
            check_keys(output, &format!("expect.outputs[{index}]."), OUTPUT, &mut unknown);
        }
    }
    if !unknown.is_empty() {
        return Err(unknown);
    }
    toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])
}

fn check_keys(table: &toml::Table, path: &str, known: &[&str], unknown: &mut Vec<String>) {
    for name in table.keys().filter(|name| !known.contains(&name.as_str())) {
        unknown.push(match nearest(name, known.iter().copied()) {
            Some(meant) => format!("{path}{name}: unknown key; did you mean {meant:?}?"),
            None => format!("{path}{name}: unknown key; known are {}", known.join(", ")),
        });
    }
}

/// The message that the event comes in, and the circumstances of its run.
fn scene(event: EventTable, name: &str, file: &Path, handler: &Handler) -> Result<Scene, String> {
    let subject = subject_of(handler, event.subject.as_deref()).map_err(|fault| format!("subject: {fault}"))?;
    let mut list = headers_of(event.headers).map_err(|why| format!("headers.{why}"))?;
    if let Some(kind) = event.kind {
        let id = event.id.as_deref().unwrap_or(name);
        list.extend(attributes_of(&kind, id, handler).map_err(|why| format!("kind: {why}"))?);
    }
    let payload = match (event.payload, event.payload_file, event.json) {
        (Some(text), None, None) => Bytes::from(text),
        (None, Some(path), None) => {
            let path = file.parent().unwrap_or(Path::new(".")).join(path);
            Bytes::from(read_bytes(&path).map_err(|why| format!("payload_file: {} {why}", path.display()))?)
        }
        (None, None, Some(json)) => Bytes::from(json_of(json).to_string()),
        _ => return Err("payload: give one of payload, payload_file and json; payload = \"\" is none at all".into()),
    };
    let clock_ms = moment(event.clock).map_err(|why| format!("clock: {why}"))?.unwrap_or(CLOCK_MS);
    let seed = event.seed.as_deref().map(parse_seed).transpose().map_err(|why| format!("seed: {why}"))?;
    Ok(Scene {
        message: Message { subject, headers: list, payload, damage: None },
        id: event.id,
        attempt: Attempt::new(event.attempt.unwrap_or(1)).ok_or("attempt: attempts are counted from 1")?,
        stored_ms: moment(event.time).map_err(|why| format!("time: {why}"))?.unwrap_or(clock_ms),
        clock_ms,
        seed: seed.unwrap_or(SEED),
    })
}

fn headers_of(table: BTreeMap<String, OneOrMore>) -> Result<Headers, String> {
    let mut list = Headers::new();
    for (name, values) in table {
        if !headers::is_valid_name(&name) {
            return Err(format!("{name}: a name is visible ASCII without a colon"));
        }
        let values = match values {
            OneOrMore::One(value) => vec![value],
            OneOrMore::More(values) => values,
        };
        for value in values {
            if !headers::is_valid_value(&value) {
                return Err(format!("{name}: the value contains a line break"));
            }
            list.push((name.clone(), value));
        }
    }
    Ok(list)
}

/// The headers of an event of some kind: those that make it a `CloudEvent`.
fn attributes_of(kind: &str, id: &str, handler: &Handler) -> Result<Headers, String> {
    if matches!(handler.format, Format::Raw | Format::Queue) {
        return Err(format!("only CloudEvents have one, and the handler's format is {:?}", handler.format.name()));
    }
    if !kind.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%') || kind.is_empty() {
        return Err("it must be visible ASCII without blanks and \"%\"".into());
    }
    let id = headers::clean_id(id);
    let list = [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-source", SOURCE), ("ce-id", &id)];
    Ok(list.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// A time of day in one of its forms, in milliseconds since the Unix epoch.
fn moment(value: Option<toml::Value>) -> Result<Option<u64>, String> {
    match value {
        None => Ok(None),
        Some(toml::Value::String(text)) => parse_clock(&text).map(Some),
        Some(value @ (toml::Value::Datetime(_) | toml::Value::Integer(_))) => {
            parse_clock(value.to_string().trim()).map(Some)
        }
        Some(_) => parse_clock("").map(Some),
    }
}

fn expected(ExpectTable { outcome, message, outputs }: ExpectTable) -> Result<Expected, String> {
    if outcome.is_none() && message.is_none() && outputs.is_none() {
        return Err(format!(": nothing is expected; name at least one of {}", EXPECT.join(", ")));
    }
    let known: Vec<_> = std::iter::once(COMPLETED).chain(FAILURES.map(Kind::name)).collect();
    if let Some(outcome) = outcome.as_deref().filter(|outcome| !known.contains(outcome)) {
        let hint = nearest(outcome, known.iter().copied())
            .map_or_else(|| format!("it is one of {}", known.join(", ")), |meant| format!("did you mean {meant:?}?"));
        return Err(format!(".outcome: there is no {outcome:?}; {hint}"));
    }
    let is_completed = outcome.as_deref().map_or(outputs.is_some(), |outcome| outcome == COMPLETED);
    match (is_completed, &message, &outputs) {
        (true, Some(_), _) => return Err(".message: an event that is handled has none".into()),
        (false, _, Some(_)) => return Err(".outputs: an event that is not handled has none".into()),
        _ => {}
    }
    let outputs = outputs.map(|outputs| {
        let outputs = outputs.into_iter().enumerate();
        outputs
            .map(|(index, output)| expected_output(output).map_err(|why| format!(".outputs[{index}].{why}")))
            .collect()
    });
    let outcome = outcome.or_else(|| is_completed.then(|| COMPLETED.to_owned()));
    Ok(Expected { outcome, message, outputs: outputs.transpose()? })
}

fn expected_output(output: OutputTable) -> Result<ExpectedOutput, String> {
    let payload = match (output.payload, output.json) {
        (Some(_), Some(_)) => return Err("payload: give one of payload and json".into()),
        (Some(text), None) => Some(Payload::Text(text)),
        (None, json) => json.map(|json| Payload::Json(json_of(json))),
    };
    Ok(ExpectedOutput {
        subject: output.subject,
        kind: output.kind,
        content_type: output.content_type,
        headers: headers_of(output.headers).map_err(|why| format!("headers.{why}"))?,
        payload,
    })
}

/// A TOML value as JSON; dates and times become strings.
fn json_of(value: toml::Value) -> Json {
    match value {
        toml::Value::String(text) => Json::from(text),
        toml::Value::Integer(integer) => Json::from(integer),
        toml::Value::Float(float) => Json::from(float),
        toml::Value::Boolean(flag) => Json::from(flag),
        toml::Value::Datetime(time) => Json::from(time.to_string()),
        toml::Value::Array(array) => array.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json_of(value))).collect(),
    }
}

#[cfg(test)]
mod tests;
