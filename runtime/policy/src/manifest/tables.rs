//! Every key of the manifest.
//!
//! The reader, the JSON schema and the reference are all made from these tables, so that none of them
//! can know a key that another does not.

use std::time::Duration;

use super::keys::{Key, Kind, Place, Section, Text, Within, key};
use super::latest::{OnMissing, OnStale};
use super::order::{self, OnFailure};
use super::resolved::{AckMode, Across, Backoff, CONCURRENCY_MAX, Format, Isolation, Mode, Outputs};
use crate::history;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
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
    Section { name: "runtime", place: Place::Single, keys: RUNTIME, help: "Settings of the process." },
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
    key("url", Kind::OneOrMore(Text::Url), "the server, or several of one cluster").example("'nats://127.0.0.1:4222'"),
    key("credentials", SECRET, "the credentials file (JWT and seed) to authenticate with").example("'file:app.creds'"),
    key("nkey", SECRET, "the NKey seed to authenticate with").example("'env:NATS_NKEY'"),
    key("token", SECRET, "the token to authenticate with").example("'env:NATS_TOKEN'"),
    key("user", Kind::Text(Text::Any), "the user to authenticate as; needs `password`").example("'tidemill'"),
    key("password", SECRET, "the user's password; needs `user`").example("'env:NATS_PASSWORD'"),
    key("tls", Kind::Table(TLS), "TLS files, relative to the manifest").example("{}"),
    key("prefix", Kind::Text(Text::Prefix), "the first part of the names of our own streams and subjects")
        .default("'tidemill'"),
    key("replicas", integer(1, 5), "replicas of our own streams; 3 on a cluster").default("1"),
];

const TLS: &[Key] = &[
    key("ca", PATH, "certificate authorities to trust, PEM").example("'ca.pem'"),
    key("cert", PATH, "the client certificate, PEM; needs `key`").example("'client.pem'"),
    key("key", PATH, "the key of the client certificate, PEM; needs `cert`").example("'client.key'"),
];

/// `[runtime]`.
pub(super) const RUNTIME: &[Key] = &[
    key(
        "plugins",
        Kind::Text(Text::Plugins),
        "the folder of components and of drop-in manifests, relative to the manifest; or the object-store bucket in NATS that \
         they are taken from",
    )
    .default("'plugins'"),
    key("listen", Kind::Text(Text::Listen), "where health and status are served; loopback only")
        .default("'127.0.0.1:7070'"),
    key("drain", duration(Duration::ZERO, HOUR), "how long to wait for events in flight when stopping")
        .default("'30s'"),
    key(
        "in_flight",
        size(MIB, 1 << 40),
        "the most bytes of messages in flight in the process, those that are asked for included; at least one of the \
         server's largest messages for each consumer",
    )
    .default("'256MiB'"),
    key(
        "memory",
        size(MIB, 1 << 40),
        "linear memory of all instances of all handlers together, idle ones included; at least the `limits.memory` of each",
    )
    .derived("half of what the machine or its control group gives", "'2GiB'"),
    key("cache", PATH, "the folder of compiled components, relative to the manifest")
        .derived("a folder in the user's cache", "'cache'"),
    key("watch", Kind::Bool, "whether manifest, components and schemas are watched, and reloaded when they change")
        .default("true"),
    key(
        "watch_poll",
        duration(Duration::from_millis(100), HOUR),
        "how often the files are looked at besides, since some file systems do not tell of changes",
    )
    .default("'2s'"),
    key(
        "versions",
        PATH,
        "the folder, relative to the manifest, of the last versions of each handler's component and of what became of them, and of the \
         copy of a bucket",
    )
    .default("'.tidemill'"),
    key("keep_versions", integer(1, 100), "how many versions of each handler's component are kept").default("5"),
];

/// `[handler.<name>]`, and with fewer keys `[policy.<name>]` and `[defaults]`.
pub(super) const HANDLER: &[Key] = &[
    key("component", PATH, "the component's file; a relative path is relative to `runtime.plugins`")
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
    key("create_stream", Kind::Bool, "whether to create `stream` where it is missing; needs `stream`").default("false"),
    key("durable", JETSTREAM, "the name of the durable consumer")
        .derived("`<prefix>-<name>`", "'tidemill-welcome-email'")
        .within(Within::Handler),
    key("mode", choice(Mode::NAMES), "who gets an event: one of the instances, or every one").default("'queue'"),
    key("format", choice(Format::NAMES), "how messages are decoded; `auto` recognises CloudEvents and queue messages")
        .default("'auto'"),
    key("policy", Kind::Text(Text::Policy), "the named policy to follow")
        .example("'patient'")
        .within(Within::NotPolicy),
    key(
        "concurrency",
        integer(1, CONCURRENCY_MAX as u64),
        "how many events are handled at once in one process; those of all handlers \
         add up to 2048 at most",
    )
    .default("16"),
    key("ack", choice(AckMode::NAMES), "`confirmed` waits until the server confirms each acknowledgement")
        .default("'plain'"),
    key(
        "ack_wait",
        duration(Duration::from_secs(1), DAY),
        "after how long without a sign of life an event is taken from an instance; at least `limits.timeout`",
    )
    .derived("`30s`, or one and a half times `limits.timeout` if that is longer", "'30s'"),
    key(
        "max_age",
        duration(Duration::from_secs(1), DAY.saturating_mul(3650)),
        "events that were stored longer ago than this go to the dead letters instead of being attempted",
    )
    .example("'1h'"),
    key(
        "schema",
        PATH,
        "the JSON schema that payloads must fit, relative to the manifest; with `schema_versions`, the one for all \
         events that name none of them",
    )
    .example("'schemas/welcome_email.json'"),
    key("schema_versions", Kind::Files, "the JSON schema of each version of an event, relative to the manifest")
        .example("{ 'https://example.org/welcome_email/v2' = 'schemas/welcome_email_v2.json' }"),
    key("schema_by", Kind::Text(Text::SchemaBy), "what an event's version is told by; `dataschema` is of CloudEvents")
        .default("'dataschema'"),
    key(
        "schema_out",
        Kind::Files,
        "the JSON schemas that outputs must fit, by subject pattern (`\">\"` for all), relative to the manifest",
    )
    .example("{ 'mail.sent.>' = 'schemas/mail_sent.json' }"),
    key("dedup", Kind::Table(DEDUP), "which events to handle once, over how long").default("{}"),
    key("order", Kind::Table(ORDER), "what holds among events that belong together").default("{}"),
    key("config", Kind::Settings, "settings for the handler, read through `wasi:config`").default("{}"),
    key("secrets", Kind::Secrets, "secrets for the handler, read through `wasi:config`; references only").default("{}"),
    key("isolation", choice(Isolation::NAMES), "`handler` reuses instances, `event` makes a fresh one for each event")
        .default("'handler'"),
    key("limits", Kind::Table(LIMITS), "what one invocation may use").default("{}"),
    key(
        "outputs",
        choice(Outputs::NAMES),
        "`atomic` stores all outputs of an event at one moment or none of them; needs one stream for them, with \
         `allow_atomic`, and nats-server 2.12.1",
    )
    .default("'each'"),
    key("retry", Kind::Table(RETRY), "what to do about failures").default("{}"),
    key("circuit_breaker", Kind::Table(CIRCUIT_BREAKER), "when to stop taking events because too many fail")
        .default("{}"),
    key(
        "outage_brake",
        Kind::Bool,
        "whether events wait, and a few are tried, while nearly every attempt ends in `retry` or `timeout`",
    )
    .default("true"),
    key("rate_limit", Kind::Table(RATE_LIMIT), "how many attempts may begin over time").default("{}"),
    key("dead_letter", Kind::Table(DEAD_LETTER), "where events go that are given up on").default("{}"),
    key("allow", Kind::Table(ALLOW), "what the handler may reach").default("{}"),
    key("http", Kind::Table(HTTP), "limits of the requests that it may send").default("{}"),
    key("keyvalue", Kind::Table(KEYVALUE), "limits of the buckets that it may use").default("{}"),
    key("reload", Kind::Table(RELOAD), "when a new version goes back to the one before").default("{}"),
];

const LIMITS: &[Key] = &[
    key("timeout", duration(Duration::from_millis(10), HOUR), "wall-clock time of one invocation").default("'2s'"),
    key("fuel", integer(1, u64::MAX), "fuel of one invocation, about one unit for each wasm instruction")
        .default("500_000_000"),
    key("memory", size(64 << 10, 4 << 30), "linear memory of one instance").default("'64MiB'"),
    key("payload", size(1, 64 * MIB), "the largest payload that is given to the handler").default("'1MiB'"),
    key("outputs", integer(0, 10_000), "the number of outputs of one invocation").default("64"),
    key(
        "output_bytes",
        size(0, 256 * MIB),
        "the size of all outputs of one invocation: subjects, headers and payloads",
    )
    .default("'1MiB'"),
    key("reuse", integer(1, 1_000_000_000), "after how many events an instance is replaced").default("1000"),
];

const DEDUP: &[Key] = &[
    key("key", Kind::Text(Text::DedupKey), "what two events have in common that are the same").default("'none'"),
    key(
        "window",
        duration(Duration::from_secs(1), DAY.saturating_mul(365)),
        "for how long an event is remembered; at least `ack_wait`",
    )
    .default("'24h'"),
    key(
        "claim",
        Kind::Bool,
        "whether to claim an event before it is run, so that two copies never run at once anywhere: for handlers with \
         effects outside NATS",
    )
    .default("false"),
];

const ORDER: &[Key] = &[
    key(
        "by",
        choice(order::BY),
        "`key` handles the events of one key one at a time, in the order of their stream; `latest` does not run an \
         event that is older than the newest processed one of its key",
    )
    .default("'none'"),
    key("key", Kind::Text(Text::OrderKey), "what events have in common that belong together").example("'subject:2'"),
    key(
        "form",
        choice(order::FORMS),
        "of `key`: `partitions` spreads events over all instances by a token of their subject; with `queues` one instance at a \
         time handles all of them, different keys side by side",
    )
    .derived("`partitions` for a key of the subject, else `queues`", "'queues'"),
    key("partitions", integer(1, 1024), "of `key`: how many partitions there are; fixed when they are made").default("16"),
    key(
        "in_flight",
        integer(1, 65_536),
        "of `key`: how many events the active instance of `queues` has in hand, those that wait for their turn included",
    )
    .default("1024"),
    key(
        "on_failure",
        choice(OnFailure::NAMES),
        "of `key`: what becomes of the rest of a key whose event is given up on: it goes on, or is parked behind that event",
    )
    .default("'dead-letter'"),
    key(
        "time",
        Kind::Text(Text::OrderTime),
        "of `latest`: when an event happened: RFC 3339, or a number of seconds (below 100 000 000 000) or milliseconds since 1970; \
         `event` is the time of CloudEvents and queue messages, else when the message was stored",
    )
    .default("'event'"),
    key("on_stale", choice(OnStale::NAMES), "of `latest`: what is done about an event that is too old").default("'discard'"),
    key("on_missing", choice(OnMissing::NAMES), "of `latest`: what is done about an event without key or time")
        .default("'dead-letter'"),
    key(
        "window",
        duration(Duration::from_secs(1), DAY.saturating_mul(365)),
        "of `latest`: for how long the newest event of a key is remembered; at least `ack_wait`",
    )
    .default("'24h'"),
];

const RETRY: &[Key] = &[
    key("max_attempts", integer(1, 1000), "after how many failed attempts an event goes to the dead letters")
        .default("5"),
    key("backoff", choice(Backoff::NAMES), "how the delay grows").default("'exponential'"),
    key("initial", duration(Duration::ZERO, DAY.saturating_mul(30)), "the delay after the first failure")
        .default("'500ms'"),
    key("max", duration(Duration::ZERO, DAY.saturating_mul(30)), "the longest delay; at least `initial`")
        .default("'1m'"),
    key(
        "multiplier",
        Kind::Number { min: 1.0, max: 1000.0 },
        "the factor from one delay to the next; exponential only",
    )
    .default("2.0"),
    key(
        "jitter",
        Kind::Number { min: 0.0, max: 1.0 },
        "the share of a delay that is varied at random: 0.2 spreads over 80 % to 120 %",
    )
    .default("0.2"),
    key(
        "in_memory",
        duration(Duration::ZERO, Duration::from_mins(1)),
        "the first retries wait in the process, up to this long in total; later ones wait in the retry stream",
    )
    .default("'250ms'"),
    key("on", KINDS, "kinds of failure to attempt again though they go to the dead letters otherwise").default("[]"),
];

const CIRCUIT_BREAKER: &[Key] = &[
    key(
        "failures",
        integer(1, 100_000),
        "after how many failures in a row, counted by each instance, it opens for all",
    )
    .example("10"),
    key("ratio", Kind::Number { min: 0.01, max: 1.0 }, "at what share of failures within `window` it opens instead")
        .example("0.5"),
    key("window", duration(Duration::from_secs(1), HOUR), "over how long the share is counted").default("'30s'"),
    key("min_events", integer(1, 1_000_000), "how many attempts within `window` the share needs to mean something")
        .default("20"),
    key(
        "open_for",
        duration(Duration::from_secs(1), DAY),
        "for how long no event is taken; then they are tried one at a time",
    )
    .default("'30s'"),
    key(
        "open_max",
        duration(Duration::from_secs(1), DAY),
        "where the first one tried fails, `open_for` doubles up to this",
    )
    .default("'10m'"),
    key("successes", integer(1, 1000), "how many of those that are tried must succeed for it to close").default("1"),
];

const RATE_LIMIT: &[Key] = &[
    key("rate", Kind::Text(Text::Rate), "how many attempts may begin in which time").example("'100/s'"),
    key("burst", integer(1, 1_000_000), "how many may begin at once after a rest")
        .derived("what `rate` lets begin in a tenth of a second, at least 1", "20"),
    key("across", choice(Across::NAMES), "whether the limit is for each instance, or for all of them together")
        .default("'instance'"),
];

/// The kinds of failure that an attempt can end in.
const KINDS: Kind = Kind::List(Text::Choice(history::Kind::OF_ATTEMPTS_NAMES));

const DEAD_LETTER: &[Key] = &[
    key("subject", Kind::Text(Text::Subject), "the subject dead letters are published on")
        .derived("`<prefix>.deadletter.<name>`", "'registration.welcome_email_deadletter'")
        .within(Within::Handler),
    key("max_age", duration(Duration::from_secs(1), DAY.saturating_mul(3650)), "how long dead letters are kept")
        .default("'30d'"),
    key("on", KINDS, "kinds of failure that go to the dead letters at once though they are attempted again otherwise")
        .default("[]"),
];

const ALLOW: &[Key] = &[
    key("publish", Kind::List(Text::Pattern), "the subjects that outputs may be published on").default("[]"),
    key(
        "http",
        Kind::List(Text::HttpGrant),
        "the requests that may be sent through `wasi:http`: origins, each perhaps with what paths begin with and with \
         methods before it, as in `\"GET,POST https://api.example/v1/\"`",
    )
    .default("[]"),
    key(
        "keyvalue",
        Kind::List(Text::KeyGrant),
        "the buckets of NATS that may be used through `wasi:keyvalue`, each perhaps with what keys begin with, or to be read \
         only, as in `\"read counters/orders.\"`",
    )
    .default("[]"),
];

/// `http`: what holds for the requests that `allow.http` grants.
const HTTP: &[Key] = &[
    key(
        "connect_timeout",
        duration(Duration::from_millis(1), Duration::from_mins(1)),
        "how long the name, the connection and TLS may take together; at most `http.request_timeout`",
    )
    .default("'1s'"),
    key(
        "request_timeout",
        duration(Duration::from_millis(1), HOUR),
        "how long one request may take until its response is read; never longer than what is left of `limits.timeout`",
    )
    .default("'5s'"),
    key("response", size(0, 256 * MIB), "the largest body of a response").default("'1MiB'"),
    key("in_flight", integer(1, 256), "how many requests of one invocation may be under way at once").default("16"),
    key("rate_limit", Kind::Table(HTTP_RATE_LIMIT), "how many requests to one origin may begin over time")
        .default("{}"),
    key(
        "circuit_breaker",
        Kind::Table(HTTP_CIRCUIT_BREAKER),
        "when to refuse requests to an origin because too many fail: no response in time, or a status of 500 and above",
    )
    .default("{}"),
];

const HTTP_RATE_LIMIT: &[Key] = &[
    key("rate", Kind::Text(Text::Rate), "how many requests to one origin each instance begins in which time")
        .example("'100/s'"),
    key("burst", integer(1, 1_000_000), "how many may begin at once after a rest")
        .derived("what `rate` lets begin in a tenth of a second, at least 1", "20"),
];

const HTTP_CIRCUIT_BREAKER: &[Key] = &[
    key("failures", integer(1, 100_000), "after how many failures in a row of one origin it opens, in each instance")
        .example("10"),
    key("ratio", Kind::Number { min: 0.01, max: 1.0 }, "at what share of failures within `window` it opens instead")
        .example("0.5"),
    key("window", duration(Duration::from_secs(1), HOUR), "over how long the share is counted").default("'30s'"),
    key("min_events", integer(1, 1_000_000), "how many requests within `window` the share needs to mean something")
        .default("20"),
    key(
        "open_for",
        duration(Duration::from_secs(1), DAY),
        "for how long requests are refused; then they are tried one at a time",
    )
    .default("'10s'"),
    key(
        "open_max",
        duration(Duration::from_secs(1), DAY),
        "where the first one tried fails, `open_for` doubles up to this",
    )
    .default("'1m'"),
    key("successes", integer(1, 1000), "how many of those that are tried must succeed for it to close").default("1"),
];

/// `keyvalue`: what holds for the buckets that `allow.keyvalue` grants.
const KEYVALUE: &[Key] = &[
    key("value", size(0, 64 * MIB), "the largest value that may be read or written").default("'1MiB'"),
    key("operations", integer(1, 100_000), "how many operations one invocation may ask for").default("1000"),
];

const RELOAD: &[Key] = &[
    key(
        "guard",
        duration(Duration::ZERO, DAY),
        "for how long a new version is watched, and gone back from if it fails; `0s` for not at all",
    )
    .default("'30s'"),
    key(
        "max_failure_ratio",
        Kind::Number { min: 0.01, max: 1.0 },
        "at what share of failed attempts it goes back, if that is also half as much again as the share of the version before",
    )
    .default("0.5"),
    key("min_events", integer(1, 1_000_000), "how many attempts of the new version the share needs to mean something")
        .default("20"),
    key(
        "canary",
        Kind::Number { min: 0.001, max: 1.0 },
        "the share of events that goes to the new version while it is watched; below 1, it needs a `guard`",
    )
    .default("1.0"),
    key("rerun", Kind::Bool, "whether events that the new version gave up on are run again after going back")
        .default("false"),
];
