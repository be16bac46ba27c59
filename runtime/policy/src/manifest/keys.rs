//! Every key of the manifest: its type, unit, range, default and meaning.
//!
//! The reader, the JSON schema and the reference are all made from these tables, so that none of them
//! can know a key that another does not.

use std::time::Duration;

use super::resolved::{Backoff, Format, Isolation, Mode};
use super::units::{show_duration, show_size};

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Default,
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
    /// One of these.
    Choice(&'static [&'static str]),
    /// A duration within bounds.
    Duration { min: Duration, max: Duration },
    /// A size in bytes, within bounds.
    Size { min: u64, max: u64 },
}

/// What holds where a key is absent. Values are written in TOML.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    /// Nothing; the example shows a value.
    None { example: &'static str },
    /// This value.
    Value(&'static str),
    /// Something that follows from other keys.
    Derived {
        rule: &'static str,
        example: &'static str,
    },
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

    const fn example(self, example: &'static str) -> Key {
        Key {
            default: Default::None { example },
            ..self
        }
    }

    const fn default(self, value: &'static str) -> Key {
        Key {
            default: Default::Value(value),
            ..self
        }
    }

    const fn derived(self, rule: &'static str, example: &'static str) -> Key {
        Key {
            default: Default::Derived { rule, example },
            ..self
        }
    }

    const fn within(self, within: Within) -> Key {
        Key { within, ..self }
    }

    const fn required(self) -> Key {
        Key {
            required: true,
            ..self
        }
    }
}

const fn key(name: &'static str, kind: Kind, help: &'static str) -> Key {
    let default = Default::None { example: "" };
    Key {
        name,
        kind,
        default,
        within: Within::All,
        required: false,
        help,
    }
}

impl Kind {
    /// What a value must be, as in "must be …".
    pub(super) fn describe(self) -> String {
        match self {
            Kind::Text(text) => text.describe(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer { min, max } if max > i64::MAX as u64 => {
                format!("a whole number from {min}")
            }
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
            Kind::List(text) => format!("a list, each {}", text.describe()),
            Kind::OneOrMore(text) => format!("{}, or a list of them", text.describe()),
            Kind::Settings => "a table of strings, numbers and booleans".to_owned(),
            Kind::Secrets => format!("a table, each {}", Text::Secret.describe()),
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
            Text::Policy => "the name of a policy".to_owned(),
            Text::Prefix => "1 to 32 letters, digits, \"-\" and \"_\"".to_owned(),
            Text::JetStream => "a JetStream name".to_owned(),
            Text::Url => "a NATS URL".to_owned(),
            Text::Listen => "\"host:port\" or \"off\"".to_owned(),
            Text::Secret => "a reference, \"env:NAME\" or \"file:path\"".to_owned(),
            Text::Subject => "a subject without wildcards".to_owned(),
            Text::Pattern => "a subject, wildcards allowed".to_owned(),
            Text::Choice(names) => {
                format!("one of {}", super::problem::quoted(names.iter().copied()))
            }
            Text::Duration { min, max } => {
                format!(
                    "a duration from {} to {}",
                    show_duration(min),
                    show_duration(max)
                )
            }
            Text::Size { min, max } => {
                format!("a size from {} to {}", show_size(min), show_size(max))
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

const fn duration(min: Duration, max: Duration) -> Kind {
    Kind::Text(Text::Duration { min, max })
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Text(Text::Size { min, max })
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn choice(names: &'static [&'static str]) -> Kind {
    Kind::Text(Text::Choice(names))
}

const PATH: Kind = Kind::Text(Text::Path);
const SECRET: Kind = Kind::Text(Text::Secret);
const JETSTREAM: Kind = Kind::Text(Text::JetStream);

/// The tables of a manifest.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "nats",
        place: Place::Single,
        keys: NATS,
        help: "How to reach NATS, and how our own streams are named and kept.",
    },
    Section {
        name: "runtime",
        place: Place::Single,
        keys: RUNTIME,
        help: "Settings of the process.",
    },
    Section {
        name: "handler",
        place: Place::Handler,
        keys: HANDLER,
        help: "One handler: a component and its policy. A file `<name>.toml` in the plugins folder holds \
               the body of one such table.",
    },
    Section {
        name: "policy",
        place: Place::Policy,
        keys: HANDLER,
        help: "A named policy, for handlers to share. The handler's own keys come first.",
    },
    Section {
        name: "defaults",
        place: Place::Defaults,
        keys: HANDLER,
        help: "What holds for every handler that, with its policy, says nothing else.",
    },
];

/// `[nats]`.
pub(super) const NATS: &[Key] = &[
    key(
        "url",
        Kind::OneOrMore(Text::Url),
        "the server, or several of one cluster",
    )
    .example("'nats://127.0.0.1:4222'"),
    key(
        "credentials",
        SECRET,
        "the credentials file (JWT and seed) to authenticate with",
    )
    .example("'file:app.creds'"),
    key("nkey", SECRET, "the NKey seed to authenticate with").example("'env:NATS_NKEY'"),
    key("token", SECRET, "the token to authenticate with").example("'env:NATS_TOKEN'"),
    key(
        "user",
        Kind::Text(Text::Any),
        "the user to authenticate as; needs `password`",
    )
    .example("'tidemill'"),
    key("password", SECRET, "the user's password; needs `user`").example("'env:NATS_PASSWORD'"),
    key(
        "tls",
        Kind::Table(TLS),
        "TLS files, relative to the manifest",
    )
    .example("{}"),
    key(
        "prefix",
        Kind::Text(Text::Prefix),
        "the first part of the names of our own streams, buckets and subjects",
    )
    .default("'tidemill'"),
    key(
        "replicas",
        integer(1, 5),
        "replicas of our own streams and buckets; 3 on a cluster",
    )
    .default("1"),
];

const TLS: &[Key] = &[
    key("ca", PATH, "certificate authorities to trust, PEM").example("'ca.pem'"),
    key("cert", PATH, "the client certificate, PEM; needs `key`").example("'client.pem'"),
    key(
        "key",
        PATH,
        "the key of the client certificate, PEM; needs `cert`",
    )
    .example("'client.key'"),
];

/// `[runtime]`.
pub(super) const RUNTIME: &[Key] = &[
    key(
        "plugins",
        PATH,
        "the folder of components and of drop-in manifests, relative to the manifest",
    )
    .default("'plugins'"),
    key(
        "listen",
        Kind::Text(Text::Listen),
        "where console, API, metrics and health are served; loopback only",
    )
    .default("'127.0.0.1:7070'"),
    key(
        "drain",
        duration(Duration::ZERO, HOUR),
        "how long to wait for events in flight when stopping",
    )
    .default("'30s'"),
    key(
        "cache",
        PATH,
        "the folder of compiled components, relative to the manifest",
    )
    .derived("a folder in the user's cache", "'cache'"),
];

/// `[handler.<name>]`, and with fewer keys `[policy.<name>]` and `[defaults]`.
pub(super) const HANDLER: &[Key] = &[
    key(
        "component",
        PATH,
        "the component's file; a relative path is relative to `runtime.plugins`",
    )
    .derived("`<name>.wasm`", "'welcome_email.wasm'")
    .within(Within::Handler),
    key(
        "subject",
        Kind::OneOrMore(Text::Pattern),
        "the subjects whose events are handled; those of one list must not overlap",
    )
    .example("'registration.welcome_email'")
    .within(Within::Handler)
    .required(),
    key("stream", JETSTREAM, "the stream to consume")
        .derived("the stream that holds the subject", "'REGISTRATION'")
        .within(Within::Handler),
    key(
        "create_stream",
        Kind::Bool,
        "whether to create `stream` where it is missing; needs `stream`",
    )
    .default("false"),
    key("durable", JETSTREAM, "the name of the durable consumer")
        .derived("`<prefix>-<name>`", "'tidemill-welcome-email'")
        .within(Within::Handler),
    key(
        "mode",
        choice(Mode::NAMES),
        "who gets an event: one of the instances, or every one",
    )
    .default("'queue'"),
    key(
        "format",
        choice(Format::NAMES),
        "how messages are decoded; `auto` recognises CloudEvents and queue messages",
    )
    .default("'auto'"),
    key(
        "policy",
        Kind::Text(Text::Policy),
        "the named policy to follow",
    )
    .example("'patient'")
    .within(Within::NotPolicy),
    key(
        "concurrency",
        integer(1, 4096),
        "how many events are handled at once in one process",
    )
    .default("16"),
    key(
        "config",
        Kind::Settings,
        "settings for the handler, read through `wasi:config`",
    )
    .default("{}"),
    key(
        "secrets",
        Kind::Secrets,
        "secrets for the handler, read through `wasi:config`; references only",
    )
    .default("{}"),
    key(
        "isolation",
        choice(Isolation::NAMES),
        "`handler` reuses instances, `event` makes a fresh one for each event",
    )
    .default("'handler'"),
    key("limits", Kind::Table(LIMITS), "what one invocation may use").default("{}"),
    key("retry", Kind::Table(RETRY), "what to do about failures").default("{}"),
    key(
        "dead_letter",
        Kind::Table(DEAD_LETTER),
        "where events go that are given up on",
    )
    .default("{}"),
    key("allow", Kind::Table(ALLOW), "what the handler may reach").default("{}"),
];

const LIMITS: &[Key] = &[
    key(
        "timeout",
        duration(Duration::from_millis(10), HOUR),
        "wall-clock time of one invocation",
    )
    .default("'2s'"),
    key(
        "fuel",
        integer(1, u64::MAX),
        "fuel of one invocation, about one unit for each wasm instruction",
    )
    .default("500_000_000"),
    key(
        "memory",
        size(64 << 10, 4 << 30),
        "linear memory of one instance",
    )
    .default("'64MiB'"),
    key(
        "payload",
        size(1, 64 * MIB),
        "the largest payload that is given to the handler",
    )
    .default("'1MiB'"),
    key(
        "outputs",
        integer(0, 10_000),
        "the number of outputs of one invocation",
    )
    .default("64"),
    key(
        "output_bytes",
        size(0, 256 * MIB),
        "the size of all outputs of one invocation: subjects, headers and payloads",
    )
    .default("'1MiB'"),
    key(
        "reuse",
        integer(1, 1_000_000_000),
        "after how many events an instance is replaced",
    )
    .default("1000"),
];

const RETRY: &[Key] = &[
    key(
        "max_attempts",
        integer(1, 1000),
        "after how many failed attempts an event goes to the dead letters",
    )
    .default("5"),
    key("backoff", choice(Backoff::NAMES), "how the delay grows").default("'exponential'"),
    key(
        "initial",
        duration(Duration::ZERO, DAY.saturating_mul(30)),
        "the delay after the first failure",
    )
    .default("'500ms'"),
    key(
        "max",
        duration(Duration::ZERO, DAY.saturating_mul(30)),
        "the longest delay; at least `initial`",
    )
    .default("'1m'"),
    key(
        "multiplier",
        Kind::Number {
            min: 1.0,
            max: 1000.0,
        },
        "the factor from one delay to the next; exponential only",
    )
    .default("2.0"),
    key(
        "jitter",
        Kind::Number { min: 0.0, max: 1.0 },
        "the share of a delay that is varied at random: 0.2 spreads over 80 % to 120 %",
    )
    .default("0.2"),
];

const DEAD_LETTER: &[Key] = &[
    key(
        "subject",
        Kind::Text(Text::Subject),
        "the subject dead letters are published on",
    )
    .derived(
        "`<prefix>.deadletter.<name>`",
        "'registration.welcome_email_deadletter'",
    )
    .within(Within::Handler),
    key(
        "max_age",
        duration(Duration::from_secs(1), DAY.saturating_mul(3650)),
        "how long dead letters are kept",
    )
    .default("'30d'"),
];

const ALLOW: &[Key] = &[key(
    "publish",
    Kind::List(Text::Pattern),
    "the subjects that outputs may be published on",
)
.default("[]")];
