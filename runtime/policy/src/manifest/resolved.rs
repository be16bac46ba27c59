//! The manifest (`tidemill.toml`) after parsing, expansion and validation: every default is filled in,
//! every name resolved, every unit converted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::contract::SchemaPolicy;
use super::order::Order;
use super::reload::Reload;
use crate::budget::Budget;
use crate::history::Kind;
use crate::reach::{HttpGrant, KeyGrant};

/// How many events all handlers together may handle at once in one process.
pub const CONCURRENCY_MAX: u32 = 2048;

/// A whole manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// How to reach NATS, and how our own streams are named and kept.
    pub nats: Nats,
    /// Settings of the process.
    pub runtime: Runtime,
    /// The handlers by name.
    pub handlers: BTreeMap<String, Handler>,
}

impl Manifest {
    /// The subjects on which handlers publish whose outputs are stored together: their streams must be able to.
    pub fn stored_together(&self) -> Vec<String> {
        let atomic = self.handlers.values().filter(|handler| handler.outputs == Outputs::Atomic);
        atomic.flat_map(|handler| handler.allow.publish.clone()).collect()
    }
}

/// `[nats]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// Server URLs; empty where the manifest names none.
    pub urls: Vec<String>,
    /// How to authenticate.
    pub auth: Auth,
    /// TLS files, where TLS is configured.
    pub tls: Option<Tls>,
    /// The first part of the names of our own streams and subjects.
    pub prefix: String,
    /// Replicas of our own streams.
    pub replicas: u32,
}

/// How to authenticate with NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// No authentication.
    None,
    /// A credentials file (JWT and seed).
    Credentials(SecretRef),
    /// An `NKey` seed.
    Nkey(SecretRef),
    /// A token.
    Token(SecretRef),
    /// User name and password.
    User {
        /// The user name.
        user: String,
        /// The password.
        password: SecretRef,
    },
}

/// `nats.tls`: paths are relative to the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Certificate authorities to trust, PEM.
    pub ca: Option<PathBuf>,
    /// The client certificate, PEM.
    pub cert: Option<PathBuf>,
    /// The client certificate's key, PEM.
    pub key: Option<PathBuf>,
}

/// Where a secret comes from. The value itself is never part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`.
    Env(String),
    /// `file:path`, relative to the manifest.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The folder of components and drop-in manifests, relative to the manifest. Where they come from a bucket, that of the
    /// bucket's copy, which is within `versions`.
    pub plugins: PathBuf,
    /// The object-store bucket in NATS that components and drop-in manifests are taken from, if they are.
    pub bucket: Option<String>,
    /// Where to serve health and status; `None` for `"off"`.
    pub listen: Option<String>,
    /// How long to wait for events in flight when stopping.
    pub drain: Duration,
    /// The most bytes of messages in flight in the process; more where that is less than one message for each consumer.
    pub in_flight: u64,
    /// How much linear memory all instances may have together, in bytes; `None` for half of the machine's.
    pub memory_bytes: Option<u64>,
    /// Where compiled components are kept, relative to the manifest; `None` for the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Whether manifest, components and schemas are watched, and reloaded when they change.
    pub watch: bool,
    /// How often the files are looked at besides.
    pub watch_poll: Duration,
    /// Where the last versions of each handler's component are kept, relative to the manifest.
    pub versions: PathBuf,
    /// How many versions of each handler's component are kept; at least 1.
    pub keep_versions: u32,
}

/// What a value of `runtime.plugins` begins with that names a bucket.
pub const BUCKET_SCHEME: &str = "nats:";

impl Runtime {
    /// The folder of a bucket's copy, in the folder of versions. No handler's folder there has such a name.
    pub fn copy_of(versions: &Path, bucket: &str) -> PathBuf {
        versions.join(format!("plugins.{bucket}"))
    }
}

/// One handler: a component and its whole policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    /// The handler's name: 1 to 64 of `a-z`, `0-9`, `-` and `_`, starting with a letter.
    pub name: String,
    /// The deployment that it is part of: the first part of the names of our own streams and subjects.
    pub prefix: String,
    /// The component's file; a relative path is relative to `runtime.plugins`.
    pub component: PathBuf,
    /// The subjects (wildcards allowed) whose events it handles; never empty.
    pub subjects: Vec<String>,
    /// The stream to consume; `None` for the one that holds the subjects.
    pub stream: Option<String>,
    /// Whether to create `stream` if it is missing.
    pub create_stream: bool,
    /// The durable consumer's name; the default is `<prefix>-<handler>`.
    pub durable: String,
    /// Who gets an event if there are several instances.
    pub mode: Mode,
    /// How the payload is encoded.
    pub format: Format,
    /// How many events are handled at once in this process.
    pub concurrency: u32,
    /// How acknowledgements are sent.
    pub ack: AckMode,
    /// After how long without a sign of life the server delivers an event again.
    pub ack_wait: Duration,
    /// How old an event may be to be attempted, counted from when it was first stored.
    pub max_age: Option<Duration>,
    /// Which schemas payloads must fit.
    pub schema: SchemaPolicy,
    /// What is done about duplicates; `None` where only the broker's window is relied on.
    pub dedup: Option<Dedup>,
    /// What holds among events that belong together; `None` for nothing.
    pub order: Option<Order>,
    /// Settings for the handler.
    pub config: BTreeMap<String, String>,
    /// Secrets for the handler.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Whether instances are reused.
    pub isolation: Isolation,
    /// What an invocation may use.
    pub limits: Limits,
    /// Whether the outputs of an event are stored one by one or together.
    pub outputs: Outputs,
    /// What to do about failures.
    pub retry: RetryPolicy,
    /// When to stop taking events because too many fail.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Whether events wait while nearly every attempt fails in a way that may pass.
    pub outage_brake: bool,
    /// How many attempts may begin over time.
    pub rate_limit: Option<RateLimit>,
    /// Where events go that are given up on.
    pub dead_letter: DeadLetterPolicy,
    /// What the handler may reach.
    pub allow: Allow,
    /// What holds for the requests that it may send.
    pub http: HttpPolicy,
    /// What holds for the buckets that it may use.
    pub keyvalue: KeyValuePolicy,
    /// When a new version goes back to the one before.
    pub reload: Reload,
}

impl Handler {
    /// How much linear memory its instances may ask for at most, all together, in bytes.
    pub fn memory_need_bytes(&self) -> u64 {
        self.limits.budget.memory_bytes.saturating_mul(self.concurrency.into())
    }
}

choice! {
    /// `mode`.
    Mode {
        /// Each event is handled by one of the instances.
        Queue = "queue",
        /// Each event is handled by every instance that is running when it arrives.
        Broadcast = "broadcast",
    }
}

choice! {
    /// `format`: how messages are decoded.
    Format {
        /// Recognise `CloudEvents` and queue messages; anything else is raw.
        Auto = "auto",
        /// The payload is the data, headers are headers.
        Raw = "raw",
        /// `CloudEvents`, in binary or structured mode; anything else is undecodable.
        CloudEvents = "cloudevents",
        /// Queue messages; anything else is undecodable.
        Queue = "queue",
    }
}

choice! {
    /// `ack`: how the server is told that an event is done.
    AckMode {
        /// Sent and not waited for: if it is lost, the event is delivered again.
        Plain = "plain",
        /// Sent as a request, and the event is not done before the server has answered.
        Confirmed = "confirmed",
    }
}

/// `dedup`: events that are handled once, however often they arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    /// What two events have in common that are the same.
    pub key: DedupKey,
    /// For how long an event is remembered after it was handled.
    pub window: Duration,
    /// Whether an event is claimed before it is run.
    pub claim: bool,
}

/// `dedup.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DedupKey {
    /// The event's id.
    Id,
    /// The value of this header.
    Header(String),
    /// The value of this `CloudEvents` attribute.
    Attribute(String),
    /// The value at this JSON pointer (RFC 6901) in the payload.
    Json(String),
}

impl DedupKey {
    /// Reads the key as the manifest says it; `None` for "none".
    pub fn parse(text: &str) -> Option<DedupKey> {
        match text.split_once(':') {
            Some(("header", name)) => Some(DedupKey::Header(name.to_owned())),
            Some(("ce", name)) => Some(DedupKey::Attribute(name.to_owned())),
            Some(("json", pointer)) => Some(DedupKey::Json(pointer.to_owned())),
            _ => (text == "id").then_some(DedupKey::Id),
        }
    }
}

impl fmt::Display for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DedupKey::Id => f.write_str("id"),
            DedupKey::Header(name) => write!(f, "header:{name}"),
            DedupKey::Attribute(name) => write!(f, "ce:{name}"),
            DedupKey::Json(pointer) => write!(f, "json:{pointer}"),
        }
    }
}

choice! {
    /// `isolation`.
    Isolation {
        /// An instance serves many events, one after the other.
        Handler = "handler",
        /// Each event gets a fresh instance.
        Event = "event",
    }
}

choice! {
    /// `outputs`: how the outputs of one event are stored.
    Outputs {
        /// One after the other, perhaps in several streams.
        Each = "each",
        /// In one stream, all at one moment or none.
        Atomic = "atomic",
    }
}

/// `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The bounds of one invocation.
    pub budget: Budget,
    /// The largest payload, in bytes, that is given to the handler.
    pub payload_bytes: u64,
    /// After how many events an instance is replaced.
    pub reuse: u32,
}

/// `retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// After how many failed attempts an event goes to the dead letters; at least 1.
    pub max_attempts: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// The delay after the first failure.
    pub initial: Duration,
    /// The longest delay; at least `initial`.
    pub max: Duration,
    /// The factor from one delay to the next (exponential only); at least 1.
    pub multiplier: f64,
    /// The share of a delay that is varied at random: 0.2 spreads over 80 % to 120 %. From 0 to 1.
    pub jitter: f64,
    /// For how long, all delays of one delivery taken together, retries wait in the process.
    pub in_memory: Duration,
    /// Kinds of failure that are attempted again, whatever is usual for them.
    pub on: Vec<Kind>,
}

choice! {
    /// `retry.backoff`.
    Backoff {
        /// Always `initial`.
        Constant = "constant",
        /// `initial`, twice `initial`, three times `initial`, …
        Linear = "linear",
        /// `initial` times `multiplier` to the power of the failures before.
        Exponential = "exponential",
    }
}

/// `circuit_breaker`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreaker {
    /// When it opens.
    pub trigger: Trigger,
    /// For how long it opens the first time.
    pub open_for: Duration,
    /// The longest that it opens for; `open_for` where that is longer.
    pub open_max: Duration,
    /// How many events must succeed, tried one at a time, for it to close; at least 1.
    pub successes: u32,
}

/// `circuit_breaker.failures`, or `ratio` with `window` and `min_events`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// So many failures in a row.
    InARow {
        /// How many; at least 1.
        failures: u32,
    },
    /// Such a share of failures.
    Ratio {
        /// The share, above 0 and up to 1.
        ratio: f64,
        /// Over how long.
        window: Duration,
        /// The fewest attempts of which the share means something.
        events_min: u32,
    },
}

/// `rate_limit`: attempts that may begin over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many begin in `per`; at least 1.
    pub count: u32,
    /// In which time.
    pub per: Duration,
    /// How many may begin at once after a rest; at least 1.
    pub burst: u32,
    /// Whom the limit holds for.
    pub across: Across,
}

impl RateLimit {
    /// Reads a rate as the manifest says it, such as `100/s` or `10/min`: how many, in which time.
    pub fn parse_rate(text: &str) -> Option<(u32, Duration)> {
        const COUNT_MAX: u32 = 1_000_000;
        let (count, unit) = text.split_once('/')?;
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| digits && (1..=COUNT_MAX).contains(count))?;
        Some((count, Duration::from_secs(seconds)))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            3600 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

choice! {
    /// `rate_limit.across`.
    Across {
        /// Each instance may begin so many.
        Instance = "instance",
        /// All instances together may.
        Instances = "instances",
    }
}

/// `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterPolicy {
    /// The subject dead letters are published on; the default is `<prefix>.deadletter.<handler>`.
    pub subject: String,
    /// How long they are kept.
    pub max_age: Duration,
    /// Kinds of failure that are not attempted again, whatever is usual for them.
    pub on: Vec<Kind>,
}

/// `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// The subjects (wildcards allowed) that outputs may be published on.
    pub publish: Vec<String>,
    /// The requests that may be sent.
    pub http: Vec<HttpGrant>,
    /// The buckets and keys that may be used.
    pub keyvalue: Vec<KeyGrant>,
}

/// `http`: limits of the requests that a handler may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HttpPolicy {
    /// How long the name, the connection and TLS may take together.
    pub connect_timeout: Duration,
    /// How long a request may take until its response is read.
    pub request_timeout: Duration,
    /// The largest body of a response, in bytes.
    pub response_bytes: u64,
    /// How many requests of one invocation may be under way at once; at least 1.
    pub in_flight: u32,
    /// How many requests to one origin may begin over time.
    pub rate_limit: Option<RateLimit>,
    /// When requests to an origin are refused because too many fail.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// `keyvalue`: limits of the buckets that a handler may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValuePolicy {
    /// The largest value, in bytes.
    pub value_bytes: u64,
    /// How many operations one invocation may ask for; at least 1.
    pub operations: u32,
}
