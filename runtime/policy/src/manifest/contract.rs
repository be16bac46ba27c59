//! `schema`, `schema_by`, `schema_versions` and `schema_out`: which schemas payloads must fit.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::read::{Leaf, Value};
use super::resolved::Handler;
use crate::subject;

/// Which schemas payloads must fit. Paths are relative to the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaPolicy {
    /// The schema of all events, or with `versions` of those that name none of them.
    pub default: Option<PathBuf>,
    /// What an event's version is told by.
    pub by: SchemaBy,
    /// The schemas of the versions.
    pub versions: BTreeMap<String, PathBuf>,
    /// The schemas of outputs, by the pattern of their subjects.
    pub outputs: BTreeMap<String, PathBuf>,
}

/// `schema_by`: what an event's version is told by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SchemaBy {
    /// The `CloudEvents` attribute `dataschema`.
    #[default]
    DataSchema,
    /// The value of this header.
    Header(String),
    /// The value of this `CloudEvents` attribute.
    Attribute(String),
}

impl SchemaBy {
    /// Reads it as the manifest says it.
    pub(super) fn parse(text: &str) -> Option<SchemaBy> {
        match text.split_once(':') {
            Some(("header", name)) => Some(SchemaBy::Header(name.to_owned())),
            Some(("ce", name)) => Some(SchemaBy::Attribute(name.to_owned())),
            _ => (text == "dataschema").then_some(SchemaBy::DataSchema),
        }
    }
}

impl SchemaPolicy {
    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.default.iter().chain(self.versions.values()).chain(self.outputs.values())
    }

    /// Whether payloads are not checked at all.
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.versions.is_empty() && self.outputs.is_empty()
    }
}

impl fmt::Display for SchemaBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaBy::DataSchema => f.write_str("dataschema"),
            SchemaBy::Header(name) => write!(f, "header:{name}"),
            SchemaBy::Attribute(name) => write!(f, "ce:{name}"),
        }
    }
}

pub(super) fn resolve(layers: &Layers) -> SchemaPolicy {
    SchemaPolicy {
        default: layers.path("schema"),
        by: layers.text("schema_by").and_then(|text| SchemaBy::parse(&text)).unwrap_or_default(),
        versions: files(layers, "schema_versions"),
        outputs: files(layers, "schema_out"),
    }
}

fn files(layers: &Layers, path: &str) -> BTreeMap<String, PathBuf> {
    let entries = layers.entries(path).into_iter();
    let path_of = |leaf: &Leaf| match &leaf.value {
        Value::Text(path) => Some(PathBuf::from(path)),
        _ => None,
    };
    entries.filter_map(|(name, leaf)| Some((name.to_owned(), path_of(leaf)?))).collect()
}

pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    let own = layers.said.first();
    if handler.schema.versions.is_empty() && own.is_some_and(|own| own.contains_key("schema_by")) {
        let complaint = Complaint::new("\"schema_by\" has no effect, since there are no \"schema_versions\"");
        let hint = "add schema_versions = { \"<version>\" = \"<path>\" }, or remove it";
        report.warning(layers.span("schema_by"), complaint.hint(hint));
    }
    for (name, leaf) in layers.entries("schema_versions") {
        if name.is_empty() {
            let complaint = Complaint::new("\"schema_versions\" has a version without a name");
            report.error(leaf.span, complaint.hint("an event names its version; for all others, there is \"schema\""));
        }
    }
    for (pattern, leaf) in layers.entries("schema_out") {
        if let Err(error) = subject::check_pattern(pattern) {
            let message = format!("\"schema_out\" has {pattern:?}, which is no usable subject: {error}");
            report.error(leaf.span, Complaint::new(message).hint("write \">\" for the outputs on all subjects"));
        } else if !handler.allow.publish.is_empty()
            && !handler.allow.publish.iter().any(|granted| subject::overlaps(granted, pattern))
        {
            let message =
                format!("\"schema_out\" has {pattern:?}, on which handler {:?} may not publish", handler.name);
            report.warning(leaf.span, Complaint::new(message).hint("grant it with \"allow.publish\", or remove it"));
        }
    }
}
