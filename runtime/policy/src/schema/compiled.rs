//! One schema: from its text to a validator, and from a payload to the offences in it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ReferencingError, Retrieve, Uri, ValidationError, Validator};
use serde_json::Value;

use super::measured::{Measured, Place, Walk, is_real};
use crate::cloud_event::percent_decode;

/// How often the validator may look at a payload: this often, and so often more for each of its bytes.
const STEPS: (u64, u64) = (1_000_000, 32);
/// The most offences that are counted.
const OFFENCES_MAX: u32 = 1000;
/// The most offences that are told.
const TOLD_MAX: usize = 5;
/// The longest place of an offence, and the longest description, in bytes.
const PLACE_BYTES_MAX: usize = 80;
const DESCRIPTION_BYTES_MAX: usize = 100;
/// The longest description of what is wrong with a schema, in bytes.
const FAULT_BYTES_MAX: usize = 500;

/// A schema, ready to be used.
pub struct Schema {
    name: String,
    validator: Validator<Measured>,
}

/// Why there is no schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaError {
    /// This file is needed first, because what is there refers to it.
    Wanted(PathBuf),
    /// It is none: one sentence that says why, and the remedy.
    Invalid(String),
}

impl Schema {
    /// Compiles the schema in the file `path`, of those that are in `files` with their texts; their paths are
    /// absolute. `name` is what to call it. References to files that are not there make it ask for them, one at a
    /// time. Nothing else is ever fetched.
    ///
    /// # Errors
    /// Which file is needed, or what is wrong.
    pub fn compile(name: &str, path: &Path, files: &BTreeMap<PathBuf, String>) -> Result<Schema, SchemaError> {
        let mut documents = BTreeMap::new();
        for (each, text) in files {
            let called = if each == path { name.to_owned() } else { each.display().to_string() };
            let document: Value = serde_json::from_str(text)
                .map_err(|error| SchemaError::Invalid(format!("{called} is not JSON: {error}; correct it there")))?;
            documents.insert(uri_of(each), document);
        }
        let Some(root) = documents.get(&uri_of(path)).cloned() else {
            return Err(SchemaError::Wanted(path.to_owned()));
        };
        // Patterns are matched in linear time, whatever the payload.
        jsonschema::options_for::<Measured>()
            .with_base_uri(uri_of(path))
            .with_retriever(Documents(documents))
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .build(&root)
            .map(|validator| Schema { name: name.to_owned(), validator })
            .map_err(|error| explain(name, &error))
    }

    /// Checks a payload.
    ///
    /// # Errors
    /// One sentence that tells the first offences, each with its place in the payload, and how many more there are.
    /// It is bounded, and holds nothing of the payload but names of properties.
    pub fn check(&self, payload: &[u8]) -> Result<(), String> {
        let name = &self.name;
        let document: Value =
            serde_json::from_slice(payload).map_err(|error| format!("is not JSON, as {name} wants it: {error}"))?;
        let steps = STEPS.0 + STEPS.1.saturating_mul(payload.len() as u64);
        let walk = Walk::new(steps, u32::MAX);
        let is_valid = self.validator.is_valid(Place::new(&document, &walk));
        if walk.is_cut() {
            return Err(format!("cannot be checked against {name}: that takes more than {steps} steps"));
        }
        if is_valid {
            return Ok(());
        }
        let walk = Walk::new(steps, OFFENCES_MAX);
        let errors = self.validator.iter_errors(Place::new(&document, &walk));
        let mut offences = errors.filter(|error| is_real(error.instance()));
        let told: Vec<_> = offences.by_ref().take(TOLD_MAX).map(|error| offence(&error)).collect();
        let more = match (walk.is_cut(), offences.count()) {
            (true, _) => ", and more".to_owned(),
            (false, 0) => String::new(),
            (false, count) => format!(", and {count} more"),
        };
        Err(if told.is_empty() {
            format!("does not fit {name}, in more ways than are told apart")
        } else {
            format!("does not fit {name}: {}{more}", told.join("; "))
        })
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.name).finish()
    }
}

/// Where an offence is and what it is: the place as a JSON pointer.
fn offence(error: &ValidationError<'_>) -> String {
    let place = match error.instance_path().as_str() {
        "" => "the whole".to_owned(),
        place => short(place, PLACE_BYTES_MAX),
    };
    let description = match error.kind() {
        ValidationErrorKind::AdditionalItems { limit } => format!("more than {limit} items"),
        ValidationErrorKind::PropertyNames { error } => {
            short(error.masked_with("the name of a property"), DESCRIPTION_BYTES_MAX)
        }
        _ => short(error.masked_with("it"), DESCRIPTION_BYTES_MAX),
    };
    format!("{place}: {description}")
}

/// What is wrong with a schema.
fn explain(name: &str, error: &ValidationError<'_>) -> SchemaError {
    let place = match error.instance_path().as_str() {
        "" => String::new(),
        place => format!(" at {}", short(place, PLACE_BYTES_MAX)),
    };
    if let ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, source }) = error.kind() {
        return match path_of(uri) {
            Some(_) if source.downcast_ref::<Wanted>().is_none() => {
                SchemaError::Invalid(format!("{name} refers to {uri}: {source}"))
            }
            Some(path) => SchemaError::Wanted(path),
            None => SchemaError::Invalid(format!(
                "{name} refers to {}, and nothing is fetched from elsewhere; keep a copy beside it and refer to that \
                 by its file name",
                short(uri, FAULT_BYTES_MAX)
            )),
        };
    }
    let why = short(error, FAULT_BYTES_MAX);
    SchemaError::Invalid(match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => format!(
            "{name} is not a valid schema{place}: {why}; patterns are matched in linear time, so they have neither \
             look-around nor back-references"
        ),
        _ => format!("{name} is not a valid schema{place}: {why}; correct it there"),
    })
}

/// `what` as text, cut to `bytes_max` without ever writing more.
fn short(what: impl fmt::Display, bytes_max: usize) -> String {
    struct Short(String, usize);
    impl Write for Short {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.1.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut short = Short(String::new(), bytes_max);
    if write!(short, "{what}").is_err() {
        short.0.push('…');
    }
    short.0
}

/// The files that are there.
struct Documents(BTreeMap<String, Value>);

/// A file is not there.
#[derive(Debug, thiserror::Error)]
#[error("it has not been read")]
struct Wanted;

impl Retrieve for Documents {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        self.0.get(uri.as_str()).cloned().ok_or_else(|| Wanted.into())
    }
}

/// The URI of an absolute path.
fn uri_of(path: &Path) -> String {
    let mut uri = "file://".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

/// The path of a URI that names a file of this machine.
fn path_of(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("file://").filter(|path| path.starts_with('/'))?;
    Some(percent_decode(path).into())
}

#[cfg(test)]
mod tests;
