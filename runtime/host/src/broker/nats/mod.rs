//! NATS `JetStream` as the broker: connection, streams, consumers, publishing and settling.
//!
//! - `carriers`: whether something still has an event.
//! - [`confirm`]: many confirmations at once.
//! - [`connect`]: options, credentials, and what the connection's events mean.
//! - [`streams`]: our own streams and the users' input streams.
//! - [`durable`]: making a consumer, and comparing it with what was asked for.
//! - `own`: how our own streams must be kept.
//! - [`owner`]: whose a consumer is, and how it was set up.
//! - [`position`], [`progress`]: where consumers go on whose stream or subjects are not what they were.
//! - `drift`: what becomes of a consumer while it is pulled from.
//! - [`consume`]: pulling from one consumer as far as there is credit, and its recovery.
//! - `open`: what was asked for and has not arrived.
//! - `outbox`: what is on its way to the client.
//! - [`markers`]: what is remembered of events.
//! - `lookups`: looking many of them up at once.
//! - [`partitions`]: the streams that keep events in order by a part of their subjects.
//! - [`keyvalue`]: the users' buckets, for handlers that are granted them.
//! - [`lease`]: deliveries in flight, kept alive while they are queued or running.
//! - [`pause`]: consumers that the server itself holds back.
//! - [`preflight`]: what the manifest asks for against what the server is set to.
//! - [`batch`]: publishing several messages at one moment.
//! - [`publish`]: publishing with confirmation, and what a refusal means.
//! - [`routes`]: which subjects the server's streams store, and how large messages may be.
//! - `grants`: what we may publish on.
//! - [`quarantine`]: messages that the client library cannot read.
//! - [`wire`]: the connection that takes them.
//! - [`objects`]: objects in a bucket of the object store.
//! - [`ask`], [`shelf`]: what operators ask: questions, and messages where they are kept.
//! - [`server`]: a private `nats-server` for `tidemill dev`.

pub mod ask;
pub mod batch;
pub mod carriers;
mod confirm;
pub mod connect;
pub mod consume;
pub(crate) mod drift;
pub mod durable;
mod grants;
pub mod keyvalue;
pub mod lease;
mod lookups;
pub mod markers;
pub mod objects;
mod open;
mod outbox;
mod own;
pub mod owner;
pub mod partitions;
pub mod pause;
mod place;
pub mod position;
pub mod preflight;
pub mod progress;
pub mod publish;
pub mod quarantine;
pub mod routes;
pub mod server;
pub mod shelf;
pub mod streams;
mod surety;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::header::{HeaderName, IntoHeaderName};
use async_nats::jetstream;
use async_nats::{Client, HeaderMap};
use tidemill_policy::event::Headers;
use tidemill_policy::headers;
use tidemill_policy::history::millis;
use tidemill_policy::id::Token;
use tidemill_policy::manifest::{AckMode, Handler};
use tidemill_policy::marker::{self, Carrier, Marker};
use tidemill_policy::publication::{Publication, RetryClock};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::broker::{Broker, MarkerError, PublishError, Published, Recalled, Settlement, Stored};
use crate::clock::Clock;
use connect::Link;
use lease::Lease;
use outbox::{Item, Outbox};
use routes::Routes;
use streams::Own;
use wire::Wire;

/// How long the server may take to confirm a publication or to answer a question.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that the server is asked to keep a message back. Nothing that policy decides comes near it.
const HAND_BACK_MAX: Duration = Duration::from_hours(365 * 24);

/// How many questions are asked at once, where there are many at a start.
pub const ASKED_AT_ONCE: usize = 16;

/// A connection to a server with `JetStream`, and what was found out about it.
#[derive(Debug)]
pub struct Nats {
    /// The connection.
    pub client: Client,
    /// The `JetStream` context.
    pub context: jetstream::Context,
    /// The state of the connection.
    pub link: Arc<Link>,
    /// What the server can do.
    pub features: Features,
    /// Which subjects are stored by some stream.
    routes: Routes,
    /// What we may publish on.
    grants: grants::Grants,
    /// The connection for what others have stored, made when it is needed for the first time.
    wire: OnceLock<Arc<Wire>>,
    confirmations: OnceCell<confirm::Confirmations>,
    outbox: OnceLock<Outbox>,
    /// How many deliveries are in hand.
    in_hand: Arc<AtomicUsize>,
    /// Where markers are looked up.
    lookups: OnceCell<lookups::Lookups>,
    /// The batches that may still be opened at the same time.
    batches: tokio::sync::Semaphore,
    /// The first part of the names of our own streams and subjects, once they are made.
    prefix: String,
    /// The consumers, by handler and stream.
    pub(crate) durables: ArcSwap<BTreeMap<(String, String), String>>,
    /// Since when markers have their present names, see [`markers::named_since_ms`].
    named_since_ms: u64,
    /// The bucket of markers.
    bucket: String,
    /// Whether the bucket has replicas, of which those that do not lead may be behind.
    bucket_is_replicated: bool,
    /// Whether the server told that instances of this user cannot be found as a service.
    pub is_hidden: bool,
    /// What is ours, to be made again if somebody deletes it.
    pub own: ArcSwap<Own>,
}

/// What the server can do, as far as it matters to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The API level that the server announces; 0 before 2.11.
    pub api_level: u64,
    /// How retries wait: settled when the retry stream is made and its configuration echoed.
    pub retry_clock: RetryClock,
    /// Whether messages may have a time to live of their own.
    pub message_ttl: bool,
}

impl Nats {
    /// Wraps a connection. What the server offers is found out when our streams are made.
    pub fn new(client: Client, link: Arc<Link>) -> Nats {
        let context = jetstream::context::ContextBuilder::new()
            .timeout(CONFIRM_TIMEOUT)
            .ack_timeout(CONFIRM_TIMEOUT)
            .max_ack_inflight(4096)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let features = Features { api_level: 0, retry_clock: RetryClock::NotBefore, message_ttl: false };
        Nats {
            client,
            context,
            link,
            features,
            routes: Routes::default(),
            grants: grants::Grants::default(),
            wire: OnceLock::new(),
            confirmations: OnceCell::new(),
            lookups: OnceCell::new(),
            outbox: OnceLock::new(),
            in_hand: Arc::default(),
            batches: tokio::sync::Semaphore::new(batch::OPEN_MAX),
            prefix: String::new(),
            durables: ArcSwap::default(),
            named_since_ms: 0,
            bucket: String::new(),
            bucket_is_replicated: false,
            is_hidden: false,
            own: ArcSwap::default(),
        }
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The connection over which events come in, and whatever else others have stored.
    pub fn wire(&self) -> &Arc<Wire> {
        self.wire.get_or_init(|| Arc::new(Wire::start(self.link.origin.clone(), &self.link)))
    }

    fn outbox(&self) -> &Outbox {
        self.outbox.get_or_init(|| Outbox::start(self.client.clone(), Arc::clone(&self.in_hand)))
    }

    /// Waits until what was settled goes to the server before anything that is asked of it from now on. Where the server
    /// is away, not for long: then those events are delivered again.
    pub async fn settlements_given(&self) {
        let on_its_way = async {
            self.outbox().emptied().await;
            // The client gathers what it sends, and a process that ends does not wait for it.
            let _ = self.client.flush().await;
        };
        let _ = timeout(CONFIRM_TIMEOUT, self.link.lost.run_until_cancelled(on_its_way)).await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.link.expect_end();
    }
}

impl Broker for Nats {
    type Receipt = Lease;

    async fn publish(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        publish::publish(self, batch).await
    }

    async fn publish_together(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        publish::publish_together(self, batch).await
    }

    async fn carries(&self, handler: &str, token: &Token, carriers: &[Carrier]) -> Result<bool, MarkerError> {
        carriers::carries(self, handler, token, carriers).await
    }

    async fn knows(&self, patterns: &[String], id: &str) -> Result<bool, PublishError> {
        batch::knows(self, patterns, id).await
    }

    async fn settle(&self, mut receipt: Lease, settlement: Settlement, ack: AckMode) {
        let body: bytes::Bytes = match settlement {
            Settlement::Nothing => return,
            Settlement::Ack => "+ACK".into(),
            Settlement::Nak { delay } if delay.is_zero() => "-NAK".into(),
            Settlement::Nak { delay } => hand_back(delay).into(),
            Settlement::Term { reason } => format!("+TERM {}", reason.replace(['\r', '\n'], " ")).into(),
        };
        let Some(reply) = receipt.reply().cloned() else { return };
        // While the server is waited for, the message is still in memory.
        let _bytes = receipt.take_bytes();
        // Before the server is told: what it delivers again at once must not be taken for what is still held.
        drop(receipt);
        match ack {
            AckMode::Plain => self.outbox().put(Item::Settlement { reply, body }).await,
            AckMode::Confirmed => {
                // Without an answer, the server delivers it again.
                if let Err(error) = Box::pin(self.client.request(reply, body)).await {
                    tracing::debug!(%error, "could not settle a delivery");
                }
            }
        }
    }

    async fn lapsed(&self, receipt: &Lease) {
        receipt.lapsed().await;
    }

    fn has_legacy_markers(&self, handler: &Handler) -> bool {
        let lifetime_ms = millis(marker::lifetime_max([handler].into_iter()));
        self.named_since_ms > 0 && Clock::System.now_ms() < self.named_since_ms.saturating_add(lifetime_ms)
    }

    async fn recall(&self, key: &str) -> Result<Recalled, MarkerError> {
        markers::recall(self, key).await
    }

    async fn remember(
        &self,
        key: &str,
        marker: &Marker,
        lifetime: Duration,
        revision: u64,
    ) -> Result<u64, MarkerError> {
        markers::remember(self, key, marker, lifetime, revision).await
    }

    async fn read_record(&self, key: &str) -> Result<Stored, MarkerError> {
        markers::read(self, key).await
    }

    async fn replace_record(
        &self,
        key: &str,
        value: bytes::Bytes,
        lifetime: Duration,
        revision: u64,
    ) -> Result<u64, MarkerError> {
        markers::replace(self, key, value, lifetime, revision).await
    }

    async fn pause(&self, consumers: &[(String, String)], until_ms: Option<u64>) -> Result<(), String> {
        pause::pause(self, consumers, until_ms).await
    }

    async fn message_bytes_max(&self, subject: &str) -> usize {
        routes::message_bytes_max(self, subject).await
    }

    fn retry_clock(&self) -> RetryClock {
        self.features.retry_clock
    }

    fn message_ttl(&self) -> bool {
        self.features.message_ttl
    }
}

/// What tells the server to deliver a message again after `delay`. It counts in nanoseconds with 63 bits, and adds them
/// to the time of day: a delay that exceeds that would be none.
fn hand_back(delay: Duration) -> String {
    format!("-NAK {{\"delay\": {}}}", delay.min(HAND_BACK_MAX).as_nanos())
}

/// What is made when it is needed for the first time. That is boxed, since it is large.
async fn once<T, E, F>(cell: &OnceCell<T>, make: impl FnOnce() -> F) -> Result<&T, E>
where
    F: Future<Output = Result<T, E>>,
{
    match cell.get() {
        Some(present) => Ok(present),
        None => Box::pin(cell.get_or_try_init(make)).await,
    }
}

/// The client's headers as a list, sorted by name: the client keeps them in a hash map.
fn headers_from(map: Option<&HeaderMap>) -> Headers {
    let mut list = Headers::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        list.extend(values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// Headers of ours that every output has: their names are shared, not copied.
static OF_OUTPUTS: LazyLock<[(&str, HeaderName); 2]> =
    LazyLock::new(|| [headers::CORRELATION_ID, headers::CAUSATION_ID].map(|name| (name, name.into_header_name())));

/// A list of headers as the client wants them. Names and values that cannot be sent were refused before.
fn headers_into(list: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        match OF_OUTPUTS.iter().find(|(known, _)| known == name) {
            Some((_, known)) => map.append(known.clone(), value.as_str()),
            None => map.append(name.as_str(), value.as_str()),
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server cannot read, it takes for no delay at all.
    #[test]
    fn the_server_can_count_every_delay() {
        for delay in [Duration::from_nanos(1), Duration::from_hours(24), Duration::from_hours(1 << 40), Duration::MAX] {
            let body = hand_back(delay);
            let json = serde_json::from_str::<serde_json::Value>(body.strip_prefix("-NAK ").expect("it hands back"));
            let nanos = json.expect("JSON")["delay"].as_i64().expect("it fits");
            assert!(nanos > 0 && nanos.checked_mul(2).is_some(), "{delay:?}: {body}");
        }
    }
}
