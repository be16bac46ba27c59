//! Whether payloads are what `schema` and `schema_out` say they are.
//!
//! The texts of schemas are handed in and compiled once, when a handler is loaded; checking a payload is a function
//! of its bytes. See [`Schema`] for what bounds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cloud_event;
use crate::decide::Failure;
use crate::event::{Event, Output};
use crate::history::Kind;
use crate::manifest::{SchemaBy, SchemaPolicy};
use crate::outcome::Outcome;
use crate::subject;

mod compiled;
mod measured;

pub use compiled::{Schema, SchemaError};

/// The longest version that a message repeats, in bytes.
const VERSION_BYTES_MAX: usize = 100;

/// The schemas of one handler, compiled.
#[derive(Debug, Default)]
pub struct Schemas {
    by: SchemaBy,
    default: Option<Arc<Schema>>,
    versions: BTreeMap<String, Arc<Schema>>,
    outputs: Vec<(String, Arc<Schema>)>,
}

impl Schemas {
    /// Has every schema of a handler compiled, each file once.
    ///
    /// # Errors
    /// What is wrong with each, with the key that names it.
    pub fn load(
        policy: &SchemaPolicy,
        compile: impl Fn(&Path) -> Result<Schema, String>,
    ) -> Result<Schemas, Vec<String>> {
        let mut loader = Loader { compile, compiled: BTreeMap::new(), faults: Vec::new() };
        let default = policy.default.as_ref().and_then(|path| loader.load("schema", path));
        let versions = policy.versions.iter();
        let versions = versions
            .filter_map(|(name, path)| Some((name.clone(), loader.load(&format!("schema_versions.{name:?}"), path)?)));
        let versions = versions.collect();
        let outputs = policy.outputs.iter();
        let outputs = outputs
            .filter_map(|(name, path)| Some((name.clone(), loader.load(&format!("schema_out.{name:?}"), path)?)));
        let outputs = outputs.collect();
        if loader.faults.is_empty() {
            Ok(Schemas { by: policy.by.clone(), default, versions, outputs })
        } else {
            Err(loader.faults)
        }
    }

    /// Checks the payload that the handler would get.
    ///
    /// # Errors
    /// The failure with which the event goes to the dead letters without being run.
    pub fn admit(&self, event: &Event) -> Result<(), Failure> {
        let schema = match (&self.default, self.versions.is_empty()) {
            (None, true) => return Ok(()),
            (Some(schema), true) => schema,
            (_, false) => self.choose(event).map_err(|why| Failure::new(Kind::Schema, why))?,
        };
        schema.check(&event.payload).map_err(|why| Failure::new(Kind::Schema, format!("the payload {why}")))
    }

    /// The schema of the version that an event names, else the one for all others.
    fn choose(&self, event: &Event) -> Result<&Arc<Schema>, String> {
        let named = match &self.by {
            SchemaBy::DataSchema => event.data_schema.as_deref(),
            SchemaBy::Header(name) => cloud_event::header(&event.headers, &event.attributes, name),
            SchemaBy::Attribute(name) => event.attributes.get(name).map(String::as_str),
        };
        if let Some(schema) = named.and_then(|version| self.versions.get(version)).or(self.default.as_ref()) {
            return Ok(schema);
        }
        Err(match named {
            Some(version) => {
                let cut = &version[..version.floor_char_boundary(VERSION_BYTES_MAX)];
                format!("its {} is {cut:?}, which schema_versions does not have", self.by)
            }
            None => format!("it has no {}, by which schema_versions are told apart", self.by),
        })
    }

    /// What an outcome comes to once the outputs are checked: the same, unless one of them does not fit every schema
    /// whose pattern selects its subject.
    pub fn screen(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Completed(outputs) => match self.check_outputs(&outputs) {
                Ok(()) => Outcome::Completed(outputs),
                Err(message) => Outcome::OutputRefused { message },
            },
            other => other,
        }
    }

    fn check_outputs(&self, outputs: &[Output]) -> Result<(), String> {
        for (index, output) in outputs.iter().enumerate() {
            for (_, schema) in self.outputs.iter().filter(|(pattern, _)| subject::matches(pattern, &output.subject)) {
                let checked = schema.check(&output.payload);
                checked.map_err(|why| format!("output {index} on {:?}: the payload {why}", output.subject))?;
            }
        }
        Ok(())
    }
}

/// Loads schemas, and notes what is wrong.
struct Loader<F> {
    compile: F,
    compiled: BTreeMap<PathBuf, Option<Arc<Schema>>>,
    faults: Vec<String>,
}

impl<F: Fn(&Path) -> Result<Schema, String>> Loader<F> {
    fn load(&mut self, key: &str, path: &Path) -> Option<Arc<Schema>> {
        if let Some(known) = self.compiled.get(path) {
            return known.clone();
        }
        let compiled = match (self.compile)(path) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(why) => {
                self.faults.push(format!("{key}: {why}"));
                None
            }
        };
        self.compiled.insert(path.to_owned(), compiled.clone());
        compiled
    }
}

#[cfg(test)]
mod tests;
