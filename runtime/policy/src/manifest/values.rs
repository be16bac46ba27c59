//! From one TOML value to a checked one.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::expand::expand;
use super::keys::{Kind, Text};
use super::problem::{Complaint, Span, quoted};
use super::read::{Layer, Leaf, Reader, Value};
use super::{texts, units};

/// The longest list that a manifest may hold.
const LIST_MAX: usize = 256;

impl Reader<'_> {
    /// Reads a value as what `kind` says; `path` is what to call it.
    pub(super) fn value(&mut self, kind: Kind, path: &str, value: &Spanned<DeValue>) -> Value {
        let span = self.span(value);
        let refused = Complaint::new(format!("must be {}", kind.describe()));
        match (kind, value.get_ref()) {
            (Kind::Text(form), DeValue::String(text)) => self.text(form, path, text, span),
            (Kind::Bool, DeValue::Boolean(value)) => Value::Bool(*value),
            (Kind::Integer { min, max }, DeValue::Integer(integer)) => {
                match u64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(integer) if (min..=max).contains(&integer) => Value::Integer(integer),
                    _ => self.complain(path, span, refused),
                }
            }
            (Kind::Number { min, max }, DeValue::Float(_) | DeValue::Integer(_)) => match number(value.get_ref()) {
                Some(number) if (min..=max).contains(&number) => Value::Number(number),
                _ => self.complain(path, span, refused),
            },
            (Kind::List(form) | Kind::OneOrMore(form), DeValue::Array(array)) => {
                self.list(kind, form, path, array, span)
            }
            (Kind::OneOrMore(form), DeValue::String(text)) => match self.text(form, path, text, span) {
                Value::Text(text) => Value::List(vec![(text, span)]),
                _ => Value::Invalid,
            },
            (Kind::Settings | Kind::Secrets | Kind::Files, DeValue::Table(table)) => self.map(kind, path, table),
            _ => {
                let hint = type_hint(kind, value.get_ref());
                self.wrong_type(path, value, Complaint { hint, ..refused })
            }
        }
    }

    fn text(&mut self, form: Text, path: &str, text: &str, span: Span) -> Value {
        match expand(text, self.env).and_then(|text| texts::read(form, &text)) {
            Ok(value) => value,
            Err(complaint) => self.complain(path, span, complaint),
        }
    }

    fn list(&mut self, kind: Kind, form: Text, path: &str, array: &DeArray, span: Span) -> Value {
        if array.len() > LIST_MAX {
            let message = format!("has more than {LIST_MAX} entries");
            return self.complain(path, span, Complaint::new(message));
        }
        if array.is_empty() && matches!(kind, Kind::OneOrMore(_)) {
            return self.complain(path, span, Complaint::new("must name at least one"));
        }
        let mut entries = Vec::with_capacity(array.len());
        for entry in array {
            if let Value::Text(text) = self.value(Kind::Text(form), path, entry) {
                entries.push((text, self.span(entry)));
            }
        }
        if entries.len() == array.len() { Value::List(entries) } else { Value::Invalid }
    }

    fn map(&mut self, kind: Kind, path: &str, table: &DeTable) -> Value {
        let mut entries = Layer::new();
        for (name, value) in table {
            let path = format!("{path}.{}", name.get_ref());
            let span = self.span(value);
            let value = match (kind, value.get_ref()) {
                (Kind::Secrets, _) => self.value(Kind::Text(Text::Secret), &path, value),
                (Kind::Files, _) => self.value(Kind::Text(Text::Path), &path, value),
                (_, DeValue::String(text)) => match expand(text, self.env) {
                    Ok(text) => Value::Text(text),
                    Err(complaint) => self.complain(&path, span, complaint),
                },
                (_, DeValue::Integer(integer)) => Value::Text(integer.to_string()),
                (_, DeValue::Float(float)) => Value::Text(float.to_string()),
                (_, DeValue::Boolean(value)) => Value::Text(value.to_string()),
                _ => {
                    let complaint = Complaint::new("must be a string, a number or a boolean");
                    self.wrong_type(&path, value, complaint)
                }
            };
            entries.insert(name.get_ref().to_string(), Leaf { value, span });
        }
        Value::Map(entries)
    }

    /// Reports what is wrong with the value or the name at `path`.
    pub(super) fn complain(&mut self, path: &str, span: Span, complaint: Complaint) -> Value {
        let message = format!("\"{path}\" {}", complaint.message);
        self.report.error(span, Complaint { message, ..complaint });
        Value::Invalid
    }

    /// Reports that the value at `path` has a type that cannot be right.
    pub(super) fn wrong_type(&mut self, path: &str, value: &Spanned<DeValue>, complaint: Complaint) -> Value {
        let found = value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        let message = format!("{}, not {article} {found}", complaint.message);
        self.complain(path, self.span(value), Complaint { message, ..complaint })
    }
}

fn number(value: &DeValue) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
        _ => None,
    }
}

/// What to write instead of a value of the wrong type.
fn type_hint(kind: Kind, value: &DeValue) -> Option<String> {
    match (kind, value) {
        (Kind::Text(Text::Duration { .. }), DeValue::Integer(integer)) => units::not_a_duration(integer.as_str()).hint,
        (Kind::Text(Text::Size { .. }), DeValue::Integer(integer)) => units::not_a_size(integer.as_str()).hint,
        (Kind::Bool | Kind::Integer { .. } | Kind::Number { .. }, DeValue::String(_)) => {
            Some("write it without quotes".to_owned())
        }
        (Kind::List(_), DeValue::String(_)) => Some("put it in brackets: [\"…\"]".to_owned()),
        (Kind::Text(Text::Choice(names)), _) => Some(format!("write one of {}", quoted(names.iter().copied()))),
        (Kind::Files, DeValue::String(_)) => Some("write { \"<name>\" = \"<path>\" }".to_owned()),
        (Kind::Table(keys), _) => {
            let names = keys.iter().map(|key| key.name);
            Some(format!("known keys: {}", names.collect::<Vec<_>>().join(", ")))
        }
        _ => None,
    }
}
