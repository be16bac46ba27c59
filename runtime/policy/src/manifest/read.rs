//! Walks a parsed document along the key tables, reports keys that are unknown or misplaced, has each
//! value read, and goes on whatever is wrong.
//!
//! What several values mean together is not decided here.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::expand::Env;
use super::keys::{Fallback, Key, Kind, Place, Section, Within};
use super::problem::{Complaint, Report, Span, nearest};
use super::resolved::SecretRef;
use super::tables::{HANDLER, SECTIONS};
use super::texts;

/// A value that has been checked on its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// It was refused, and that has been reported.
    Invalid,
    Text(String),
    Secret(SecretRef),
    Bool(bool),
    /// A whole number, or a size in bytes.
    Integer(u64),
    Number(f64),
    Duration(Duration),
    List(Vec<(String, Span)>),
    /// Entries under names of the user's.
    Map(Layer),
    /// A table of ours, whose entries stand beside it under their dotted paths.
    Table,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    pub(super) value: Value,
    /// Where the value stands.
    pub(super) span: Span,
}

/// What one table says, by dotted path such as `retry.max`.
pub(super) type Layer = BTreeMap<String, Leaf>;

/// A table and the place of its name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Named {
    pub(super) layer: Layer,
    pub(super) span: Span,
}

/// What the files say, value by value.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) nats: Named,
    pub(super) runtime: Named,
    pub(super) defaults: Named,
    pub(super) policies: BTreeMap<String, Named>,
    pub(super) handlers: BTreeMap<String, Named>,
}

/// Reads the document of the main file.
pub(super) fn main_file(document: &DeTable, raw: &mut Raw, report: &mut Report, env: Env) {
    let mut reader = Reader { file: 0, env, report };
    let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    for (name, value) in document {
        match SECTIONS.iter().find(|section| section.name == name.get_ref()) {
            Some(section) => reader.section(section, name, value, raw),
            None => reader.unknown(name, "at the top of the manifest", &names, &[]),
        }
    }
}

/// Reads a drop-in: the body of one handler table.
pub(super) fn drop_in(document: &DeTable, file: usize, name: &str, raw: &mut Raw, report: &mut Report, env: Env) {
    let span = Span { file, ..Span::default() };
    let mut reader = Reader { file, env, report };
    let layer = reader.body(document, HANDLER_BODY, name);
    reader.add_handler(name, Named { layer, span }, raw);
}

/// The values that hold where no table says otherwise.
pub(super) fn built_in(keys: &'static [Key]) -> Layer {
    let mut layer = Layer::new();
    let mut report = Report::default();
    let mut reader = Reader { file: 0, env: &|_| None, report: &mut report };
    reader.built_in(keys, "", &mut layer);
    debug_assert!(!report.has_errors(), "a default in the key table is not valid: {report:?}");
    layer
}

/// A table of keys, where it stands, and how to call it.
#[derive(Clone, Copy)]
struct Body {
    keys: &'static [Key],
    place: Place,
    section: &'static str,
}

const HANDLER_BODY: Body = Body { keys: HANDLER, place: Place::Handler, section: "handler" };

/// Reads one file.
pub(super) struct Reader<'a> {
    pub(super) file: usize,
    pub(super) env: Env<'a>,
    pub(super) report: &'a mut Report,
}

impl Reader<'_> {
    pub(super) fn span<T>(&self, spanned: &Spanned<T>) -> Span {
        let range = spanned.span();
        Span { file: self.file, start: range.start, end: range.end }
    }

    fn section(&mut self, section: &Section, name: &Spanned<DeString>, value: &Spanned<DeValue>, raw: &mut Raw) {
        let body = Body { keys: section.keys, place: section.place, section: section.name };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(section.name, value, Complaint::new("must be a table"));
            return;
        };
        let span = self.span(name);
        if !section.place.is_named() {
            let layer = self.body(table, body, "");
            match section.name {
                "nats" => raw.nats = Named { layer, span },
                "runtime" => raw.runtime = Named { layer, span },
                _ => raw.defaults = Named { layer, span },
            }
            return;
        }
        for (name, value) in table {
            self.named(body, name, value, raw);
        }
    }

    fn named(&mut self, body: Body, name: &Spanned<DeString>, value: &Spanned<DeValue>, raw: &mut Raw) {
        let span = self.span(name);
        let DeValue::Table(table) = value.get_ref() else {
            let path = format!("{}.{}", body.section, name.get_ref());
            let complaint =
                Complaint::new("must be a table").hint(format!("write [{}.<name>] above the keys", body.section));
            self.wrong_type(&path, value, complaint);
            return;
        };
        if let Err(complaint) = texts::check_name(name.get_ref()) {
            self.complain(name.get_ref(), span, complaint);
        }
        let layer = self.body(table, body, name.get_ref());
        let named = Named { layer, span };
        match body.place {
            Place::Policy => drop(raw.policies.insert(name.get_ref().to_string(), named)),
            _ => self.add_handler(name.get_ref(), named, raw),
        }
    }

    fn add_handler(&mut self, name: &str, named: Named, raw: &mut Raw) {
        let span = named.span;
        if raw.handlers.insert(name.to_owned(), named).is_some() {
            let message = format!("there are two handlers named \"{name}\"");
            self.report.error(
                span,
                Complaint::new(message)
                    .hint("rename one of them: a file in the plugins folder is named like its handler"),
            );
        }
    }

    fn body(&mut self, table: &DeTable, body: Body, name: &str) -> Layer {
        let mut layer = Layer::new();
        let title = match name {
            "" => format!("[{}]", body.section),
            name => format!("[{}.{name}]", body.section),
        };
        self.table(table, body, "", &title, &mut layer);
        layer
    }

    /// Reads the entries of `table`, a table with the keys of `body`, into `layer`; `prefix` is the path
    /// of the table with a dot, `title` its name for people.
    fn table(&mut self, table: &DeTable, body: Body, prefix: &str, title: &str, layer: &mut Layer) {
        for (name, value) in table {
            let path = format!("{prefix}{}", name.get_ref());
            let known = body.keys.iter().find(|key| key.name == name.get_ref());
            let Some(key) = known else {
                let names: Vec<&str> = fitting(body).map(|key| key.name).collect();
                self.unknown(name, &format!("in {title}"), &names, body.keys);
                continue;
            };
            if !key.fits(body.place) {
                self.misplaced(&path, key, name, title);
                continue;
            }
            let span = self.span(value);
            if let (Kind::Table(keys), DeValue::Table(inner)) = (key.kind, value.get_ref()) {
                let (body, prefix) = (Body { keys, ..body }, format!("{path}."));
                self.table(inner, body, &prefix, &format!("{path:?} of {title}"), layer);
                layer.insert(path, Leaf { value: Value::Table, span });
                continue;
            }
            let value = self.value(key.kind, &path, value);
            layer.insert(path, Leaf { value, span });
        }
    }

    fn unknown(&mut self, name: &Spanned<DeString>, title: &str, names: &[&str], keys: &[Key]) {
        let complaint = Complaint::new(format!("unknown key {:?} {title}", name.get_ref()));
        let word: &str = name.get_ref();
        let drop_in = self.file > 0 && SECTIONS.iter().any(|section| section.name == word);
        let hint = if drop_in {
            "this file holds the body of one handler: write its keys without a header".to_owned()
        } else if let Some(path) = nested(word, keys) {
            format!("did you mean \"{path}\"?")
        } else if let Some(near) = nearest(word, names.iter().copied()) {
            format!("did you mean \"{near}\"?")
        } else {
            format!("known keys: {}", names.join(", "))
        };
        let span = self.span(name);
        self.report.error(span, complaint.hint(hint));
    }

    fn misplaced(&mut self, path: &str, key: &Key, name: &Spanned<DeString>, title: &str) {
        let (message, hint) = match key.within {
            Within::NotPolicy => (
                format!("\"{path}\" cannot be set in {title}: a policy does not follow another"),
                "set it in [handler.<name>] or [defaults]",
            ),
            _ => (
                format!("\"{path}\" cannot be set in {title}: it belongs to a single handler"),
                "set it in [handler.<name>]",
            ),
        };
        let span = self.span(name);
        self.report.error(span, Complaint::new(message).hint(hint));
    }

    fn built_in(&mut self, keys: &'static [Key], prefix: &str, layer: &mut Layer) {
        for key in keys {
            let path = format!("{prefix}{}", key.name);
            if let Kind::Table(keys) = key.kind {
                self.built_in(keys, &format!("{path}."), layer);
            } else if let Fallback::Value(text) = key.default
                && let Ok(value) = DeValue::parse(text)
            {
                let value = self.value(key.kind, &path, &value);
                layer.insert(path, Leaf { value, span: Span::default() });
            }
        }
    }
}

fn fitting(body: Body) -> impl Iterator<Item = &'static Key> {
    body.keys.iter().filter(move |key| key.fits(body.place))
}

/// The path of the key `word` in one of the tables among `keys`.
fn nested(word: &str, keys: &[Key]) -> Option<String> {
    keys.iter().find_map(|key| match key.kind {
        Kind::Table(inner) if inner.iter().any(|key| key.name == word) => Some(format!("{}.{word}", key.name)),
        _ => None,
    })
}
