//! The precedence of the tables: handler, then policy, then defaults, then built in, leaf by leaf.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Span;
use super::read::{Layer, Leaf, Value};
use super::resolved::SecretRef;

/// The tables that apply to one thing, the first of them first.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    /// What the manifest says.
    pub(super) said: Vec<&'a Layer>,
    /// What holds where it says nothing.
    pub(super) built_in: &'a Layer,
    /// The place of the thing itself.
    pub(super) span: Span,
}

impl<'a> Layers<'a> {
    /// What the manifest says, valid or not.
    pub(super) fn find(&self, path: &str) -> Option<&'a Leaf> {
        self.said.iter().find_map(|layer| layer.get(path))
    }

    /// The value that holds; the built-in one where what the manifest says is not valid.
    fn value(&self, path: &str) -> Option<&'a Value> {
        let said = self.find(path).map(|leaf| &leaf.value);
        let valid = said.filter(|value| **value != Value::Invalid);
        valid.or_else(|| self.built_in.get(path).map(|leaf| &leaf.value))
    }

    /// Where the value stands, or else the thing itself.
    pub(super) fn span(&self, path: &str) -> Span {
        self.find(path).map_or(self.span, |leaf| leaf.span)
    }

    /// Whether none of the values was refused, so that they can be compared.
    pub(super) fn sound(&self, paths: &[&str]) -> bool {
        let refused = |path: &&str| self.find(path).is_some_and(|leaf| leaf.value == Value::Invalid);
        !paths.iter().any(refused)
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        self.text(path).map(PathBuf::from)
    }

    pub(super) fn secret(&self, path: &str) -> Option<SecretRef> {
        match self.value(path) {
            Some(Value::Secret(reference)) => Some(reference.clone()),
            _ => None,
        }
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        self.value(path) == Some(&Value::Bool(true))
    }

    pub(super) fn integer(&self, path: &str) -> u64 {
        match self.value(path) {
            Some(Value::Integer(integer)) => *integer,
            _ => 0,
        }
    }

    /// An integer that its key keeps within 32 bits.
    pub(super) fn count(&self, path: &str) -> u32 {
        u32::try_from(self.integer(path)).unwrap_or(u32::MAX)
    }

    pub(super) fn number(&self, path: &str) -> f64 {
        match self.value(path) {
            Some(Value::Number(number)) => *number,
            _ => 0.0,
        }
    }

    pub(super) fn duration(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    /// A list with the place of each entry; empty where there is none.
    pub(super) fn list(&self, path: &str) -> &'a [(String, Span)] {
        match self.value(path) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// One of `all`, by its name.
    pub(super) fn choice<T: Copy>(&self, path: &str, all: &[T], name: fn(T) -> &'static str) -> T {
        let text = self.text(path);
        let chosen = all.iter().find(|value| Some(name(**value)) == text.as_deref());
        *chosen.unwrap_or(&all[0])
    }

    /// The entries of a table of the user's, those of the first table first.
    pub(super) fn entries(&self, path: &str) -> BTreeMap<&'a str, &'a Leaf> {
        let mut entries = BTreeMap::new();
        for layer in self.said.iter().rev() {
            if let Some(Leaf { value: Value::Map(map), .. }) = layer.get(path) {
                entries.extend(map.iter().map(|(name, leaf)| (name.as_str(), leaf)));
            }
        }
        entries
    }
}
