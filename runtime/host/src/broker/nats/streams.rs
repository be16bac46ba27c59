//! Streams: our own, which are made when they are missing, and the users' input streams, which are looked
//! up. What a server does not know it ignores in silence, so what it echoes is compared with what was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use futures::TryStreamExt;
use serde::Deserialize;
use thiserror::Error;
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::marker;
use tidemill_policy::publication::{RetryClock, provided_window, repeats_within};
use tidemill_policy::resume::Seen;
use tidemill_policy::subject;
use tokio::time::Instant;

use super::own::{self, Kind};
use super::routes::{self, Answer};
use super::{Features, Nats, markers};
use crate::clock::Clock;

/// The API level from which the server holds back scheduled messages (2.12).
const SCHEDULES_API_LEVEL: u64 = 2;
/// The API level from which messages may have a time to live (2.11).
pub const MESSAGE_TTL_API_LEVEL: u64 = 1;
/// For how long our own streams recognise duplicates.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(5);
/// With what a server answers that cannot do now what it is asked for: a cluster without a leader.
pub const UNAVAILABLE: usize = 503;
/// The most filters that are shown in an error.
const SHOWN_MAX: usize = 8;

/// Why the streams are not as the manifest needs them.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The server runs without `JetStream`.
    #[error("JetStream is not enabled on the NATS server; start it with -js, or enable it for this account")]
    NoJetStream,
    /// The server did not answer.
    #[error("the NATS server does not answer JetStream requests: {0}")]
    NoAnswer(String),
    /// A stream that a handler names does not exist.
    #[error(
        "handler.{handler}: stream {stream:?} does not exist; \
         set create_stream = true, or create it: nats stream add {stream} --subjects {subjects:?}"
    )]
    Missing {
        /// The handler.
        handler: String,
        /// The stream.
        stream: String,
        /// What it should store.
        subjects: String,
    },
    /// No stream stores a handler's subject.
    #[error(
        "handler.{handler}: no stream stores subject {subject:?}; \
         set stream and create_stream = true, or create one: nats stream add NAME --subjects {subject:?}"
    )]
    Unstored {
        /// The handler.
        handler: String,
        /// The subject.
        subject: String,
    },
    /// The subjects of a handler are in more than one stream.
    #[error("handler.{handler}: its subjects are stored by several streams ({streams}); say which with stream")]
    Ambiguous {
        /// The handler.
        handler: String,
        /// The streams.
        streams: String,
    },
    /// The handler's stream does not store its subject.
    #[error(
        "handler.{handler}: stream {stream:?} stores {stored}, but not subject {subject:?}; {hint}correct stream or \
         subject, or have the stream store it too: nats stream edit {stream} --subjects {all:?}"
    )]
    NotInStream {
        /// The handler.
        handler: String,
        /// The stream.
        stream: String,
        /// The stream's subjects.
        stored: String,
        /// The subject.
        subject: String,
        /// What may have been meant.
        hint: String,
        /// What the stream would store with it.
        all: String,
    },
    /// A stream could not be made or changed.
    #[error("cannot create or update stream {stream:?}: {why}")]
    Refused {
        /// The stream.
        stream: String,
        /// What the server says.
        why: String,
    },
}

/// A handler's input stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputStream {
    /// Its name.
    pub name: String,
    /// When it was created, in seconds since the Unix epoch.
    pub created_unix: i64,
    /// The most messages that a consumer of it may have in flight, where that is limited.
    pub ack_pending_max: Option<i64>,
    /// How many replicas it has.
    pub replicas: usize,
}

/// What is ours.
#[derive(Debug, Default)]
pub struct Own {
    /// Our streams as they were made.
    streams: Vec<(Kind, Config)>,
    /// The subjects whose streams store outputs together.
    pub together: Vec<String>,
    /// The subjects of retries and dead letters: without them, nothing can be done but to hold the events.
    subjects: Vec<String>,
    /// The most messages that a consumer of this account may have in flight, where that is limited.
    pub ack_pending_max: Option<i64>,
    /// How many replicas streams have that we make; 0 is one.
    replicas: usize,
}

impl Own {
    /// Whether an event can only be held while nothing can be published on `subject`.
    pub fn needs(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| subject::matches(pattern, subject))
    }
}

/// The name of the retry stream.
pub fn retry_stream(prefix: &str) -> String {
    format!("{}_RETRY", prefix.to_ascii_uppercase())
}

/// The name of the consumer of a handler's retries.
pub fn retry_consumer(prefix: &str, handler: &str) -> String {
    format!("{prefix}-{handler}-retry")
}

/// The name of the dead-letter stream.
pub fn dead_letter_stream(prefix: &str) -> String {
    format!("{}_DEADLETTER", prefix.to_ascii_uppercase())
}

/// What the server says about `JetStream` in this account.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    /// The API level; 0 where it announces none, before 2.11.
    pub level: u64,
    /// The most messages that a consumer may have in flight, where that is limited.
    pub ack_pending_max: Option<i64>,
}

/// Asks what the server offers.
///
/// # Errors
/// Where JetStream is not enabled, or does not answer.
pub async fn api(nats: &Nats) -> Result<Api, StreamError> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        api: Level,
        #[serde(default)]
        limits: Limits,
        error: Option<jetstream::Error>,
    }
    #[derive(Deserialize, Default)]
    struct Level {
        #[serde(default)]
        level: u64,
    }
    #[derive(Deserialize, Default)]
    struct Limits {
        #[serde(default)]
        max_ack_pending: i64,
    }
    let info: Info = nats.context.request("INFO", &()).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => StreamError::NoJetStream,
        _ => StreamError::NoAnswer(error.to_string()),
    })?;
    match info.error {
        None => {
            let limit = info.limits.max_ack_pending;
            Ok(Api { level: info.api.level, ack_pending_max: (limit > 0).then_some(limit) })
        }
        Some(error) => Err(match error.error_code() {
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => StreamError::NoJetStream,
            _ => StreamError::NoAnswer(error.to_string()),
        }),
    }
}

/// Makes our own streams, and finds out what the server offers.
///
/// # Errors
/// Where JetStream does not answer, or refuses a stream.
pub async fn prepare(nats: &mut Nats, manifest: &Manifest) -> Result<(), StreamError> {
    let api = api(nats).await?;
    let (own, offered) = provide_own(nats, manifest, api).await?;
    nats.own = ArcSwap::from_pointee(own);
    nats.prefix.clone_from(&manifest.nats.prefix);
    nats.bucket = markers::bucket(&manifest.nats.prefix);
    nats.bucket_is_replicated = offered.replicated_bucket;
    nats.features = offered.features;
    let now_ms = Clock::System.now_ms();
    nats.named_since_ms = markers::named_since_ms(nats, now_ms).await.unwrap_or_else(|error| {
        // Until the next start, the old names are looked at too.
        tracing::warn!(%error, "cannot tell since when markers have their present names");
        now_ms
    });
    Ok(())
}

/// Adds to our own streams what the handlers of another manifest need.
///
/// # Errors
/// Where JetStream does not answer, or refuses a stream.
pub async fn extend(nats: &Nats, manifest: &Manifest) -> Result<(), StreamError> {
    let api = api(nats).await?;
    let (own, _) = provide_own(nats, manifest, api).await?;
    nats.own.store(Arc::new(own));
    Ok(())
}

/// What our own streams can do as the server has made them.
struct Offered {
    features: Features,
    replicated_bucket: bool,
}

async fn provide_own(nats: &Nats, manifest: &Manifest, api: Api) -> Result<(Own, Offered), StreamError> {
    let schedules = api.level >= SCHEDULES_API_LEVEL;
    let message_ttl = api.level >= MESSAGE_TTL_API_LEVEL;
    let prefix = &manifest.nats.prefix;
    let own = |name: String, subjects: Vec<String>| Config {
        name,
        subjects,
        storage: StorageType::File,
        num_replicas: manifest.nats.replicas as usize,
        duplicate_window: DUPLICATE_WINDOW,
        allow_message_ttl: message_ttl,
        allow_direct: true,
        ..Config::default()
    };
    let retry = Config {
        retention: RetentionPolicy::WorkQueue,
        allow_message_schedules: schedules,
        ..own(retry_stream(prefix), vec![format!("{prefix}.retry.at.>"), format!("{prefix}.retry.due.>")])
    };
    let echoed = ensure(nats, Kind::Retries, retry.clone()).await?.0;
    let dead_letter = own(dead_letter_stream(prefix), dead_letter_subjects(nats, manifest).await);
    let echoed_dead_letter = ensure(nats, Kind::DeadLetters, dead_letter.clone()).await?.0;
    if !echoed_dead_letter.allow_message_ttl {
        tracing::warn!(
            "the server cannot expire single messages (2.11 and later can): dead_letter.max_age has no effect, \
             dead letters are kept until somebody removes them"
        );
    }
    let lifetime = marker::lifetime_max(manifest.handlers.values());
    let of_markers = Kind::Markers(lifetime);
    let markers = Config {
        max_messages_per_subject: 1,
        deny_delete: true,
        allow_rollup: true,
        discard: DiscardPolicy::New,
        max_age: if message_ttl { Duration::ZERO } else { lifetime },
        ..own(markers::stream(prefix), vec![markers::subject(&markers::bucket(prefix), ">")])
    };
    let offered = Offered {
        replicated_bucket: ensure(nats, of_markers, markers.clone()).await?.0.num_replicas > 1,
        features: Features {
            api_level: api.level,
            retry_clock: if echoed.allow_message_schedules { RetryClock::Schedules } else { RetryClock::NotBefore },
            message_ttl: echoed_dead_letter.allow_message_ttl,
        },
    };
    let mut subjects = vec![format!("{prefix}.retry.>")];
    subjects.extend(manifest.handlers.values().map(|handler| handler.dead_letter.subject.clone()));
    let own = Own {
        streams: vec![(Kind::Retries, retry), (Kind::DeadLetters, dead_letter), (of_markers, markers)],
        subjects,
        together: manifest.stored_together(),
        ack_pending_max: api.ack_pending_max,
        replicas: manifest.nats.replicas as usize,
    };
    Ok((own, offered))
}

/// Makes those of our own streams again that somebody has deleted: all, or the one called `name`.
///
/// # Errors
/// Where the server refuses or does not answer.
pub async fn restore(nats: &Nats, name: Option<&str>) -> Result<(), StreamError> {
    let own = nats.own.load_full();
    for (kind, config) in own.streams.iter().filter(|(_, config)| name.is_none_or(|name| config.name == name)) {
        if matches!(nats.context.get_stream(&config.name).await, Err(error) if is_not_found(&error)) {
            ensure(nats, *kind, config.clone()).await?;
            tracing::warn!(stream = %config.name, "made a stream anew that was deleted");
        }
    }
    Ok(())
}

/// The subjects of the dead-letter stream: our own, and those of handlers that no other stream stores.
async fn dead_letter_subjects(nats: &Nats, manifest: &Manifest) -> Vec<String> {
    let own = format!("{}.deadletter.>", manifest.nats.prefix);
    let mut subjects = vec![own.clone()];
    for handler in manifest.handlers.values() {
        let wanted = &handler.dead_letter.subject;
        let is_new = !subjects.iter().any(|subject| subject::covers(subject, wanted));
        if is_new && routes::is_stored(nats, wanted).await == Some(false) {
            subjects.push(wanted.clone());
        }
    }
    subjects
}

/// Makes a stream, or adds to an existing one what it lacks and puts right what would have it lose what is ours; an
/// operator's other settings stay. Returns the configuration that the server echoes, and what was put right.
async fn ensure(nats: &Nats, kind: Kind, wanted: Config) -> Result<(Config, Vec<String>), StreamError> {
    let present = match nats.context.get_stream(&wanted.name).await {
        Ok(stream) => stream.get_info().await.map_err(|error| StreamError::NoAnswer(error.to_string()))?.config,
        Err(error) if is_not_found(&error) => {
            let name = wanted.name.clone();
            let made = nats.context.create_stream(wanted).await.map_err(|error| refused(&name, &error))?;
            return Ok((made.cached_info().config.clone(), Vec::new()));
        }
        Err(error) if is_passing(&error) => return Err(StreamError::NoAnswer(error.to_string())),
        Err(error) => return Err(StreamError::Refused { stream: wanted.name, why: error.to_string() }),
    };
    let (merged, said) = own::mended(kind, &present, &wanted);
    if own::is_same(&merged, &present) {
        return Ok((present, Vec::new()));
    }
    let name = &merged.name;
    let subject = format!("$JS.API.STREAM.UPDATE.{name}");
    let since = Instant::now();
    let info = tokio::select! {
        updated = nats.context.update_stream(&merged) => updated.map_err(|error| refused(name, &error))?,
        why = nats.link.until_denied(&subject, since) => {
            let what = if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) };
            let why = format!("the server denies changing it{what}: {why}; grant publish on {subject:?}");
            return Err(StreamError::Refused { stream: name.clone(), why });
        }
    };
    let said: Vec<_> = said.into_iter().map(|said| format!("stream {name:?} is put right: {said}")).collect();
    for said in &said {
        tracing::warn!("{said}");
    }
    Ok((info.config, said))
}

/// Puts right what somebody has changed about our own streams, where they would lose what is in them. Returns what that
/// was.
///
/// # Errors
/// Where the server refuses or does not answer for one of them; the others are put right all the same.
pub async fn keep(nats: &Nats) -> Result<Vec<String>, StreamError> {
    let (mut all, mut first) = (Vec::new(), None);
    for (kind, config) in &nats.own.load_full().streams {
        match ensure(nats, *kind, config.clone()).await {
            Ok((_, said)) => all.extend(said),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(all), Err)
}

/// The subjects without those that another one covers, which the server would refuse.
pub(super) fn minimal(subjects: &BTreeSet<String>) -> Vec<String> {
    let covered = |one: &String| subjects.iter().any(|other| other != one && subject::covers(other, one));
    subjects.iter().filter(|one| !covered(one)).cloned().collect()
}

/// What it means that a stream could not be made or changed: a server that is going down or coming up may do it
/// later.
pub(super) fn refused(stream: &str, error: &CreateStreamError) -> StreamError {
    use CreateStreamErrorKind::{JetStream, JetStreamUnavailable, Response, TimedOut};
    let mut why = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        why = format!("{why}: {source}");
    }
    match error.kind() {
        TimedOut | Response | JetStreamUnavailable => StreamError::NoAnswer(why),
        JetStream(error) if error.code() == UNAVAILABLE => StreamError::NoAnswer(why),
        _ => StreamError::Refused { stream: stream.to_owned(), why },
    }
}

/// Whether waiting may help: nobody answers, or the stream has no leader.
fn is_passing(error: &jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::Request => true,
        GetStreamErrorKind::JetStream(error) => error.code() == UNAVAILABLE,
        _ => false,
    }
}

fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// How far a stream is; nothing where there is none.
///
/// # Errors
/// Where the server does not answer.
pub async fn seen(nats: &Nats, name: &str) -> Result<Option<Seen>, StreamError> {
    match nats.context.get_stream(name).await {
        Ok(stream) => {
            let info = stream.cached_info();
            Ok(Some(Seen { created_ns: info.created.unix_timestamp_nanos(), last: info.state.last_sequence }))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(StreamError::NoAnswer(error.to_string())),
    }
}

/// Makes a stream for users' subjects, which recognises duplicates for `repeats_within` as far as that is
/// sensible, or adds to an existing one the subjects that it lacks. It takes batches where a handler that publishes on
/// one of `together` needs that.
///
/// # Errors
/// Where the server refuses or does not answer.
pub async fn provide(
    nats: &Nats,
    name: &str,
    subjects: &[String],
    repeats_within: Duration,
    together: &[String],
) -> Result<(), StreamError> {
    let is_published = |subject: &String| together.iter().any(|pattern| subject::overlaps(pattern, subject));
    let wanted = Config {
        name: name.to_owned(),
        subjects: subjects.to_vec(),
        storage: StorageType::File,
        num_replicas: nats.own.load().replicas,
        duplicate_window: provided_window(repeats_within),
        allow_direct: true,
        allow_atomic_publish: subjects.iter().any(is_published),
        ..Config::default()
    };
    ensure(nats, Kind::Users, wanted).await.map(|_| ())
}

/// The configuration of a stream; nothing where there is none.
///
/// # Errors
/// Where the server does not answer.
pub async fn configuration(nats: &Nats, name: &str) -> Result<Option<Config>, StreamError> {
    match nats.context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(StreamError::NoAnswer(error.to_string())),
    }
}

/// The configurations of all streams.
///
/// # Errors
/// Where the server does not answer.
pub async fn configurations(nats: &Nats) -> Result<Vec<Config>, StreamError> {
    let configs = nats.context.streams().map_ok(|stream| stream.config);
    configs.try_collect().await.map_err(|error| StreamError::NoAnswer(error.to_string()))
}

/// The subjects of all streams, by the streams' names.
///
/// # Errors
/// Where the server does not answer.
pub async fn list(nats: &Nats) -> Result<BTreeMap<String, Vec<String>>, StreamError> {
    let configs = configurations(nats).await?;
    Ok(configs.into_iter().map(|config| (config.name, config.subjects)).collect())
}

/// What the missing stream called `name` is made for: the subjects of all handlers that say so.
pub fn created_with(manifest: &Manifest, name: &str) -> Vec<String> {
    let makers = manifest.handlers.values().filter(|one| one.create_stream && one.stream.as_deref() == Some(name));
    minimal(&makers.flat_map(|handler| handler.subjects.iter().cloned()).collect())
}

/// Finds the stream that a handler consumes, and makes it where it is missing and the handler says so. One that is there
/// is never changed: a slip of the pen would have it store what nobody publishes, and the handler wait for that.
///
/// # Errors
/// Where there is no such stream, more than one, or one that does not store the handler's subjects.
pub async fn input(nats: &Nats, handler: &Handler, manifest: &Manifest) -> Result<InputStream, StreamError> {
    let mut found = look_up(nats, handler).await?;
    if let (None, true, Some(name)) = (&found, handler.create_stream, &handler.stream) {
        let subjects = created_with(manifest, name);
        provide(nats, name, &subjects, repeats_within(handler), &nats.own.load_full().together).await?;
        found = look_up(nats, handler).await?;
    }
    let Some(info) = found else {
        return Err(StreamError::Unstored { handler: handler.name.clone(), subject: handler.subjects.join(",") });
    };
    Ok(InputStream::new(nats, &info))
}

impl InputStream {
    /// What matters to a handler of a stream.
    pub fn new(nats: &Nats, info: &Info) -> InputStream {
        InputStream {
            ack_pending_max: ack_pending_max(nats.own.load().ack_pending_max, &info.config),
            replicas: info.config.num_replicas,
            name: info.config.name.clone(),
            created_unix: info.created.unix_timestamp(),
        }
    }
}

/// The most messages of a handler's consumer that one instance has in flight.
pub fn credit(handler: &Handler) -> u32 {
    handler.window().unwrap_or_else(|| handler.concurrency.saturating_mul(2))
}

/// The most messages that a consumer of a stream may have in flight, where account or stream limit that.
pub fn ack_pending_max(account: Option<i64>, stream: &Config) -> Option<i64> {
    let limit = stream.consumer_limits.as_ref().map(|limits| limits.max_ack_pending).filter(|&limit| limit > 0);
    account.into_iter().chain(limit).min()
}

/// Looks for the stream that a handler consumes; nothing where it is yet to be made by us.
///
/// # Errors
/// Where there is no such stream, more than one, or one that does not store the handler's subjects.
pub async fn look_up(nats: &Nats, handler: &Handler) -> Result<Option<Info>, StreamError> {
    let name = match &handler.stream {
        Some(name) => name.clone(),
        None => stream_of(nats, handler).await?,
    };
    let stream = match nats.context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if is_not_found(&error) && handler.create_stream => return Ok(None),
        Err(error) if is_not_found(&error) => {
            let subjects = handler.subjects.join(",");
            return Err(StreamError::Missing { handler: handler.name.clone(), stream: name, subjects });
        }
        Err(error) => return Err(StreamError::NoAnswer(error.to_string())),
    };
    let info = stream.cached_info();
    if let Some(error) = not_in_stream(handler, &info.config) {
        return Err(error);
    }
    Ok(Some(info.clone()))
}

/// The first subject of a handler of which its stream stores nothing. A stream that is filled from other streams says
/// nothing about its subjects.
fn not_in_stream(handler: &Handler, stream: &Config) -> Option<StreamError> {
    let stored = &stream.subjects;
    let is_settled = stream.mirror.is_none() && stream.sources.is_none();
    let is_stored = |wanted: &&String| stored.iter().any(|one| subject::overlaps(one, wanted));
    let wanted = handler.subjects.iter().filter(|_| is_settled).find(|wanted| !is_stored(wanted))?;
    let near = subject::nearest(wanted, stored.iter().map(String::as_str));
    let lacking = handler.subjects.iter().filter(|wanted| !is_stored(wanted));
    Some(StreamError::NotInStream {
        handler: handler.name.clone(),
        stream: stream.name.clone(),
        stored: if stored.is_empty() { "no subject".to_owned() } else { shorten(stored) },
        subject: wanted.clone(),
        hint: near.map_or_else(String::new, |near| format!("did you mean {near:?}? ")),
        all: stored.iter().chain(lacking).map(String::as_str).collect::<Vec<_>>().join(","),
    })
}

/// The one stream that stores a handler's subjects.
async fn stream_of(nats: &Nats, handler: &Handler) -> Result<String, StreamError> {
    let all = list(nats).await?;
    let mut names = BTreeSet::new();
    for wanted in &handler.subjects {
        let holders: Vec<_> =
            all.iter().filter(|(_, stored)| stored.iter().any(|one| subject::overlaps(one, wanted))).collect();
        if holders.is_empty() {
            // One that has no leader is not in the list.
            names.insert(match routes::ask_for_stream(nats, wanted).await {
                Answer::Is(Some(name)) => name,
                Answer::Silence => return Err(StreamError::NoAnswer("who stores the subjects is not known".into())),
                Answer::Is(None) | Answer::Denial => {
                    return Err(StreamError::Unstored { handler: handler.name.clone(), subject: wanted.clone() });
                }
            });
        }
        names.extend(holders.into_iter().map(|(name, _)| name.clone()));
    }
    if names.len() > 1 {
        let streams = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(StreamError::Ambiguous { handler: handler.name.clone(), streams });
    }
    names.pop_first().ok_or_else(|| StreamError::Unstored { handler: handler.name.clone(), subject: String::new() })
}

fn shorten(subjects: &[String]) -> String {
    let mut text = subjects.iter().take(SHOWN_MAX).map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
    if subjects.len() > SHOWN_MAX {
        text.push_str(", …");
    }
    text
}
