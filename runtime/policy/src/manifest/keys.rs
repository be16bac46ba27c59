//! How a key of the manifest is described: its type, unit, range, default and meaning.
//!
//! The keys themselves are in `tables`.

use std::time::Duration;

use super::problem::quoted;
use super::units::{show_duration, show_size};

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Fallback,
    pub(super) within: Within,
    pub(super) required: bool,
    pub(super) help: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A string of some form.
    Text(Text),
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer { min: u64, max: u64 },
    /// A number within bounds.
    Number { min: f64, max: f64 },
    /// A list of strings.
    List(Text),
    /// A string, or a list of at least one.
    OneOrMore(Text),
    /// A table of the user's own keys with plain values.
    Settings,
    /// A table of the user's own keys with secret references.
    Secrets,
    /// A table of the user's own keys with paths.
    Files,
    /// A table with these keys.
    Table(&'static [Key]),
}

/// The form of a string.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    /// Anything but nothing.
    Any,
    /// A path.
    Path,
    /// A path, or a bucket of NATS.
    Plugins,
    /// The name of a policy.
    Policy,
    /// The first part of our own names.
    Prefix,
    /// The name of a stream or a consumer.
    JetStream,
    /// The URL of a NATS server.
    Url,
    /// An address to listen on, or `off`.
    Listen,
    /// A reference to a secret.
    Secret,
    /// A subject without wildcards.
    Subject,
    /// A subject with or without wildcards.
    Pattern,
    /// What makes two events the same.
    DedupKey,
    /// What tells an event's version.
    SchemaBy,
    /// What events have in common that are to be kept in order.
    OrderKey,
    /// When an event happened.
    OrderTime,
    /// How many in which time.
    Rate,
    /// Requests that are granted.
    HttpGrant,
    /// Keys that are granted.
    KeyGrant,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A duration within bounds.
    Duration { min: Duration, max: Duration },
    /// A size in bytes, within bounds.
    Size { min: u64, max: u64 },
}

/// What holds where a key is absent. Values are written in TOML.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fallback {
    /// Nothing; the example shows a value.
    None { example: &'static str },
    /// This value.
    Value(&'static str),
    /// Something that follows from other keys.
    Derived { rule: &'static str, example: &'static str },
}

/// Which tables a key of a handler may stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// `[handler.<name>]`, `[policy.<name>]` and `[defaults]`.
    All,
    /// `[handler.<name>]` and `[defaults]`.
    NotPolicy,
    /// `[handler.<name>]` alone: the key says which handler it is.
    Handler,
}

/// A kind of table at the top of the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) keys: &'static [Key],
    pub(super) help: &'static str,
}

/// Where a table stands, which decides what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `[nats]` or `[runtime]`.
    Single,
    /// `[defaults]`.
    Defaults,
    /// `[policy.<name>]`.
    Policy,
    /// `[handler.<name>]`, or the whole of a drop-in file.
    Handler,
}

impl Place {
    /// Whether the section holds one table for each name.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Place::Policy | Place::Handler)
    }
}

impl Key {
    /// Whether the key may stand in a table at `place`.
    pub(super) fn fits(&self, place: Place) -> bool {
        match self.within {
            Within::All => true,
            Within::NotPolicy => place != Place::Policy,
            Within::Handler => matches!(place, Place::Handler | Place::Single),
        }
    }

    pub(super) const fn example(self, example: &'static str) -> Key {
        Key { default: Fallback::None { example }, ..self }
    }

    pub(super) const fn default(self, value: &'static str) -> Key {
        Key { default: Fallback::Value(value), ..self }
    }

    pub(super) const fn derived(self, rule: &'static str, example: &'static str) -> Key {
        Key { default: Fallback::Derived { rule, example }, ..self }
    }

    pub(super) const fn within(self, within: Within) -> Key {
        Key { within, ..self }
    }

    pub(super) const fn required(self) -> Key {
        Key { required: true, ..self }
    }
}

/// A key that may stand in all tables of handlers, need not be there, and has no default.
pub(super) const fn key(name: &'static str, kind: Kind, help: &'static str) -> Key {
    let default = Fallback::None { example: "" };
    Key { name, kind, default, within: Within::All, required: false, help }
}

impl Kind {
    /// What a value must be, as in "must be …".
    pub(super) fn describe(self) -> String {
        match self {
            Kind::Text(text) => text.describe(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer { min, max } if max > i64::MAX as u64 => {
                format!("a whole number of at least {min}")
            }
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
            Kind::List(text) => format!("a list, each {}", text.describe()),
            Kind::OneOrMore(text) => format!("{}, or a list of them", text.describe()),
            Kind::Settings => "a table of strings, numbers and booleans".to_owned(),
            Kind::Secrets => format!("a table, each {}", Text::Secret.describe()),
            Kind::Files => format!("a table, each {}", Text::Path.describe()),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

impl Text {
    /// What the string must be, as in "must be …".
    pub(super) fn describe(self) -> String {
        match self {
            Text::Any => "a string".to_owned(),
            Text::Path => "a path".to_owned(),
            Text::Plugins => "a path, or \"nats:<bucket>\"".to_owned(),
            Text::Policy => "the name of a policy".to_owned(),
            Text::Prefix => "1 to 32 letters, digits, \"-\" and \"_\"".to_owned(),
            Text::JetStream => "a JetStream name".to_owned(),
            Text::Url => "a NATS URL".to_owned(),
            Text::Listen => "\"host:port\" or \"off\"".to_owned(),
            Text::Secret => "a reference, \"env:NAME\" or \"file:path\"".to_owned(),
            Text::Subject => "a subject without wildcards".to_owned(),
            Text::Pattern => "a subject pattern".to_owned(),
            Text::DedupKey => {
                "\"id\", \"header:<name>\", \"ce:<attribute>\", \"json:<pointer>\" or \"none\"".to_owned()
            }
            Text::SchemaBy => "\"dataschema\", \"header:<name>\" or \"ce:<attribute>\"".to_owned(),
            Text::OrderKey => "\"subject:<n>\", \"header:<name>\", \"ce:<attribute>\" or \"json:<pointer>\"".to_owned(),
            Text::OrderTime => "\"event\", \"json:<pointer>\", \"header:<name>\" or \"ce:<attribute>\"".to_owned(),
            Text::Rate => "a number for each s, min, h or d, as in \"100/s\"".to_owned(),
            Text::HttpGrant => "an origin, perhaps with a path, perhaps after methods".to_owned(),
            Text::KeyGrant => {
                "a bucket, perhaps with \"/\" and what keys begin with, perhaps after \"read\"".to_owned()
            }
            Text::Choice(names) => {
                format!("one of {}", quoted(names.iter().copied()))
            }
            Text::Duration { min, max } => {
                format!("a duration from {} to {}", show_duration(min), show_duration(max))
            }
            Text::Size { min, max } => {
                format!("a size from {} to {}", show_size(min), show_size(max))
            }
        }
    }
}
