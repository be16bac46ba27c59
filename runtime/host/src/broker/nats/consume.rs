//! One durable pull consumer: made if it is missing, pulled from only as far as there is credit, and made
//! again when somebody deletes it.
//!
//! Pull requests are sent by hand rather than through the client's message stream, because that prefetches
//! on its own: here, every message that the server sends has its place in flight reserved before it is
//! asked for.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, FromConsumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::{Message as NatsMessage, StatusCode, Subject};
use futures::StreamExt;
use thiserror::Error;
use tidemill_policy::arrival::{Message, Position};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::lease::{Lease, Leases};
use super::{Nats, headers_from, quarantine};
use crate::broker::{Delivery, Source};

/// How long a pull request waits at the server.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that an idle pull request is still known to it.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// After how long without a sign of life a pull request is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(11);
/// How long to wait before a consumer that fails is looked at again: from the first to the second.
const RECOVERY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What to consume.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The stream.
    pub stream: String,
    /// When it was created, in seconds since the Unix epoch.
    pub stream_created_unix: i64,
    /// The consumer's name.
    pub name: String,
    /// The subjects.
    pub filters: Vec<String>,
    /// How long the server waits for a sign of life before it delivers a message again.
    pub ack_wait: Duration,
    /// The most messages in flight over all instances.
    pub max_ack_pending: i64,
    /// The most messages in flight here.
    pub credit: u32,
    /// Whether this consumer is of this instance only: it starts with what arrives from now on, and goes
    /// when nobody pulls from it for a minute.
    pub broadcast: bool,
    /// What the messages are.
    pub source: Source,
}

/// Why a consumer cannot be had.
#[derive(Debug, Error)]
#[error("consumer {name:?} on stream {stream:?}: {why}")]
pub struct ConsumerError {
    /// The consumer.
    pub name: String,
    /// Its stream.
    pub stream: String,
    /// What the server says, and what to do about it.
    pub why: String,
    /// Whether it did not answer, so that it may work later.
    pub is_unanswered: bool,
}

/// Makes the consumer, or brings an existing one up to date.
///
/// # Errors
/// What the server says against it, and what to do about it.
pub async fn ensure(nats: &Nats, spec: &Spec) -> Result<(), ConsumerError> {
    let fail = |why: String, is_unanswered: bool| {
        let (name, stream) = (spec.name.clone(), spec.stream.clone());
        ConsumerError { name, stream, why, is_unanswered }
    };
    let present = present(nats, spec).await.map_err(|(why, is_unanswered)| fail(why, is_unanswered))?;
    if present.as_ref().is_some_and(|config| config.deliver_subject.is_some()) {
        return Err(fail("it exists as a push consumer; choose another name with durable".into(), false));
    }
    let wanted = config(spec, present.as_ref());
    nats.context.create_consumer_on_stream(wanted, &spec.stream).await.map(drop).map_err(|error| {
        let hint = match error.kind() {
            ConsumerErrorKind::JetStream(ref error) if error.error_code().0 == 10100 => {
                "; on a work-queue stream, the subjects of consumers must not overlap: is another handler or \
                 application consuming them?"
            }
            _ => "",
        };
        let is_unanswered = matches!(error.kind(), ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request);
        fail(format!("{error}{hint}"), is_unanswered)
    })
}

/// The consumer's configuration where it exists, or why that is not known, and whether for want of an answer.
async fn present(nats: &Nats, spec: &Spec) -> Result<Option<jetstream::consumer::Config>, (String, bool)> {
    use ConsumerInfoErrorKind::{NoResponders, NotFound, Request, TimedOut};
    let stream = nats.context.get_stream_no_info(&spec.stream).await.map_err(|error| (error.to_string(), false))?;
    match stream.consumer_info(&spec.name).await {
        Ok(info) => Ok(Some(info.config)),
        Err(error) => match error.kind() {
            NotFound => Ok(None),
            kind => Err((error.to_string(), matches!(kind, TimedOut | Request | NoResponders))),
        },
    }
}

/// The consumer's configuration. Where to start cannot be changed, so an existing consumer keeps that.
fn config(spec: &Spec, present: Option<&jetstream::consumer::Config>) -> pull::Config {
    let start = if spec.broadcast { DeliverPolicy::New } else { DeliverPolicy::All };
    pull::Config {
        durable_name: (!spec.broadcast).then(|| spec.name.clone()),
        name: Some(spec.name.clone()),
        deliver_policy: present.map_or(start, |config| config.deliver_policy),
        filter_subject: if let [only] = spec.filters.as_slice() { only.clone() } else { String::new() },
        filter_subjects: if spec.filters.len() > 1 { spec.filters.clone() } else { Vec::new() },
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        // The limit on attempts is ours: a message that the server stops delivering would be lost from sight.
        max_deliver: -1,
        max_ack_pending: spec.max_ack_pending,
        inactive_threshold: if spec.broadcast { Duration::from_mins(1) } else { Duration::ZERO },
        ..present.and_then(|config| pull::Config::try_from_consumer_config(config.clone()).ok()).unwrap_or_default()
    }
}

/// Pulls and hands over until `stop`; whatever fails is tried again. Deliveries in flight are kept alive until
/// `settled`.
pub async fn run(
    nats: Arc<Nats>,
    spec: Spec,
    stop: CancellationToken,
    settled: CancellationToken,
    hand_over: impl Fn(Delivery<Lease>),
) {
    let leases = Arc::new(Leases::default());
    tokio::spawn(Arc::clone(&leases).keep_alive(nats.client.clone(), spec.ack_wait, settled));
    let consumer = Consumer { nats: &nats, spec: &spec, leases: &leases, hand_over: &hand_over };
    tokio::select! {
        () = consumer.pull_for_ever() => {}
        () = stop.cancelled() => {}
    }
}

struct Consumer<'a, H> {
    nats: &'a Nats,
    spec: &'a Spec,
    leases: &'a Arc<Leases>,
    hand_over: &'a H,
}

impl<H: Fn(Delivery<Lease>)> Consumer<'_, H> {
    async fn pull_for_ever(&self) {
        let credit = Arc::new(Semaphore::new(self.spec.credit as usize));
        let mut delay = RECOVERY_DELAYS.0;
        // What an earlier connection or process stumbled over must not be pulled again.
        self.recover().await;
        loop {
            let since = Instant::now();
            let why = self.pull(&credit).await;
            if since.elapsed() > SILENCE_MAX * 2 {
                delay = RECOVERY_DELAYS.0;
            }
            tracing::debug!(consumer = %self.spec.name, why, "pulling was interrupted");
            sleep(delay).await;
            delay = (delay * 2).min(RECOVERY_DELAYS.1);
            self.recover().await;
        }
    }

    /// Pulls until something goes wrong, and says what.
    async fn pull(&self, credit: &Arc<Semaphore>) -> String {
        let inbox = Subject::from(self.nats.client.new_inbox());
        let mut messages = match self.nats.client.subscribe(inbox.clone()).await {
            Ok(messages) => messages,
            Err(error) => {
                self.nats.link.lose();
                return error.to_string();
            }
        };
        let mut reconnects = self.nats.link.reconnects.subscribe();
        // What was asked for and has not arrived. Freed as a whole when this function returns.
        let Ok(mut open) = Arc::clone(credit).acquire_many_owned(0).await else { return "closed".into() };
        let refill = (self.spec.credit / 4).max(1);
        let mut heard = Instant::now();
        loop {
            let wanted = if open.num_permits() == 0 { 1 } else { refill };
            tokio::select! {
                message = messages.next() => {
                    heard = Instant::now();
                    let Some(message) = message else {
                        self.nats.link.lose();
                        return "the client ended".into();
                    };
                    match message.status {
                        None => self.receive(message, open.split(1)),
                        Some(status) => if let Err(why) = answer(status, &message, &mut open) { return why },
                    }
                }
                more = Arc::clone(credit).acquire_many_owned(wanted) => {
                    let Ok(mut more) = more else { return "closed".into() };
                    let free = u32::try_from(credit.available_permits()).unwrap_or(u32::MAX);
                    if let Ok(rest) = Arc::clone(credit).try_acquire_many_owned(free) {
                        more.merge(rest);
                    }
                    if let Err(error) = self.request(&inbox, more.num_permits()).await {
                        return error;
                    }
                    if open.num_permits() == 0 {
                        heard = Instant::now();
                    }
                    open.merge(more);
                }
                () = sleep_until(heard + SILENCE_MAX), if open.num_permits() > 0 => {
                    return "the server does not answer".into();
                }
                _ = reconnects.changed() => return "the connection was made anew".into(),
            }
        }
    }

    async fn request(&self, inbox: &Subject, batch: usize) -> Result<(), String> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.spec.stream, self.spec.name);
        let body = serde_json::json!({
            "batch": batch,
            "expires": u64::try_from(PULL_EXPIRES.as_nanos()).unwrap_or(u64::MAX),
            "idle_heartbeat": u64::try_from(PULL_HEARTBEAT.as_nanos()).unwrap_or(u64::MAX),
        });
        let request = self.nats.client.publish_with_reply(subject, inbox.clone(), body.to_string().into());
        request.await.map_err(|error| error.to_string())
    }

    /// Takes the lease for a message and hands it over.
    fn receive(&self, message: NatsMessage, credit: Option<OwnedSemaphorePermit>) {
        let message = jetstream::Message { message, context: self.nats.context.clone() };
        let position = match message.info() {
            Ok(info) => Position {
                stream: info.stream.to_owned(),
                stream_created_unix: self.spec.stream_created_unix,
                sequence: info.stream_sequence,
                stored_ms: u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
                delivered: u32::try_from(info.delivered).unwrap_or(u32::MAX),
            },
            Err(error) => {
                tracing::warn!(consumer = %self.spec.name, %error, "a message without a place in the stream");
                return;
            }
        };
        let NatsMessage { subject, reply, payload, headers, .. } = message.message;
        let Some(reply) = reply else { return };
        let Some(lease) = self.leases.take(position.sequence, reply, credit) else { return };
        let headers = headers_from(headers.as_ref());
        let message = Message { subject: subject.into_string(), headers, payload, damage: None };
        (self.hand_over)(Delivery { message, position, source: self.spec.source, receipt: lease });
    }

    /// Makes the consumer again if it is gone, and takes out of the way what the client cannot parse.
    async fn recover(&self) {
        let Consumer { nats, spec, .. } = self;
        if !nats.link.is_up() {
            return;
        }
        match present(nats, spec).await {
            Ok(Some(_)) => {
                for (message, position, reply) in quarantine::unreadable(nats, spec, self.leases).await {
                    if let Some(lease) = self.leases.take(position.sequence, reply, None) {
                        (self.hand_over)(Delivery { message, position, source: spec.source, receipt: lease });
                    }
                }
            }
            Ok(None) => match ensure(nats, spec).await {
                Ok(()) => tracing::warn!(consumer = %spec.name, "made a consumer anew that was deleted"),
                Err(error) => tracing::warn!("{error}"),
            },
            Err((error, _)) => tracing::debug!(consumer = %spec.name, error, "cannot look at the consumer"),
        }
    }
}

/// Deals with a status in place of a message: gives back the credit of a pull request that has ended.
fn answer(status: StatusCode, message: &NatsMessage, open: &mut OwnedSemaphorePermit) -> Result<(), String> {
    if status == StatusCode::IDLE_HEARTBEAT {
        return Ok(());
    }
    let description = message.description.as_deref().unwrap_or_default();
    let unused = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
    match unused.and_then(|count| count.as_str().parse::<usize>().ok()) {
        Some(count) if status == StatusCode::TIMEOUT => {
            drop(open.split(count.min(open.num_permits())));
            Ok(())
        }
        _ => Err(format!("status {status} {description}")),
    }
}
