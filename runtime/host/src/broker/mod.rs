//! What the pipeline needs from a message broker. Two implementations: NATS `JetStream`, and a simulated one
//! in tests.

pub mod nats;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tidemill_policy::arrival::{Message, Position};
use tidemill_policy::decide::Refusal;
use tidemill_policy::id::Token;
use tidemill_policy::manifest::{AckMode, Handler};
use tidemill_policy::marker::{self, Carrier, Marker};
use tidemill_policy::publication::{Publication, RetryClock};

pub use tidemill_policy::arrival::Source;

/// Publishes and settles. Receiving is not part of it: deliveries are pushed into the pipeline by the
/// broker's own tasks.
pub trait Broker: Send + Sync + 'static {
    /// What a delivery is settled by. Dropping it unsettled leaves the message to be redelivered.
    type Receipt: Send + Sync + 'static;

    /// Stores all messages and returns when each is confirmed. Nothing is stored of a batch of which it is
    /// known beforehand that some message has no stream, is denied, or is too large.
    fn publish(&self, batch: &[Publication]) -> impl Future<Output = Result<Published, PublishError>> + Send;

    /// Stores all messages of a batch at one moment, in one stream, or none of them. What the broker knows by its id is
    /// not stored again, and nothing is added to what was stored as a whole (see [`tidemill_policy::together`]).
    fn publish_together(&self, batch: &[Publication]) -> impl Future<Output = Result<Published, PublishError>> + Send;

    /// Whether one of these still has the event of `handler` with this token.
    fn carries(
        &self,
        handler: &str,
        token: &Token,
        carriers: &[Carrier],
    ) -> impl Future<Output = Result<bool, MarkerError>> + Send;

    /// Whether the broker knows the id of an output, which was stored on a subject that one of `patterns` selects.
    fn knows(&self, patterns: &[String], id: &str) -> impl Future<Output = Result<bool, PublishError>> + Send;

    /// Tells the broker what became of a delivery, and waits for its answer if `ack` says so. Where this does not
    /// arrive, the message is redelivered.
    fn settle(&self, receipt: Self::Receipt, settlement: Settlement, ack: AckMode) -> impl Future<Output = ()> + Send;

    /// Waits until the broker may give the delivery to somebody else, because it has not heard of us for too long.
    fn lapsed(&self, receipt: &Self::Receipt) -> impl Future<Output = ()> + Send;

    /// Whether the version before has left markers that may matter for a handler still.
    fn has_legacy_markers(&self, handler: &Handler) -> bool;

    /// What is remembered of an event. May be a little behind; [`Broker::remember`] is not.
    fn recall(&self, key: &str) -> impl Future<Output = Result<Recalled, MarkerError>> + Send;

    /// Replaces what is remembered of an event, if its revision is still `revision`, and returns the new one. It is
    /// forgotten after `lifetime`, or some time later where single messages cannot expire.
    fn remember(
        &self,
        key: &str,
        marker: &Marker,
        lifetime: Duration,
        revision: u64,
    ) -> impl Future<Output = Result<u64, MarkerError>> + Send;

    /// Reads a record that instances share; revision 0 where there is none. May be a little behind.
    fn read_record(&self, key: &str) -> impl Future<Output = Result<Stored, MarkerError>> + Send;

    /// Replaces a record that instances share, if its revision is still `revision`, and returns the new one.
    fn replace_record(
        &self,
        key: &str,
        value: Bytes,
        lifetime: Duration,
        revision: u64,
    ) -> impl Future<Output = Result<u64, MarkerError>> + Send;

    /// Has the broker itself keep back what `consumers` (each a stream and a name) would deliver, until a time in
    /// milliseconds since the Unix epoch, or not any more. Where it cannot, this does nothing.
    fn pause(
        &self,
        consumers: &[(String, String)],
        until_ms: Option<u64>,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// The most bytes that a message on `subject` may have, headers and payload together, as far as is known.
    fn message_bytes_max(&self, subject: &str) -> impl Future<Output = usize> + Send;

    /// How retries wait for their time on this broker.
    fn retry_clock(&self) -> RetryClock;

    /// Whether messages may carry a time to live of their own.
    fn message_ttl(&self) -> bool;
}

/// What a broker has stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// Where the last message of the batch is.
    pub last: marker::Stored,
    /// How many of the messages were there already.
    pub repeated: usize,
}

/// One arrival of a message.
#[derive(Debug)]
pub struct Delivery<R> {
    /// The message.
    pub message: Message,
    /// Where it is kept, and how often it has been delivered.
    pub position: Position,
    /// Which stream it came from.
    pub source: Source,
    /// What it is settled by.
    pub receipt: R,
}

/// What is remembered of an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recalled {
    /// The marker, where there is one.
    pub marker: Option<Marker>,
    /// Its revision; 0 where there is none.
    pub revision: u64,
}

/// A record that instances share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// What it says, where there is one.
    pub value: Option<Bytes>,
    /// Its revision; 0 where there is none.
    pub revision: u64,
}

/// Why a marker or a record was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MarkerError {
    /// Somebody else has replaced it.
    #[error("the marker was replaced by somebody else")]
    Conflict,
    /// It may work later, and may have worked already.
    #[error("markers cannot be reached: {0}")]
    Unavailable(String),
}

/// What the broker is told about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// Deliver it again after `delay`.
    Nak {
        /// How long to wait.
        delay: Duration,
    },
    /// Nothing: the delivery is not ours any more.
    Nothing,
    /// Given up on; never deliver it again.
    Term {
        /// Why, for the broker's advisory.
        reason: String,
    },
}

/// Why messages were not stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// No stream stores the subject.
    #[error("no stream stores subject {subject:?}; create one, or correct the subject")]
    NoStream {
        /// The subject.
        subject: String,
    },
    /// The server denies publishing on the subject.
    #[error("the server denies publishing on {subject:?}: {why}")]
    Denied {
        /// The subject.
        subject: String,
        /// What the server said.
        why: String,
    },
    /// The message is larger than the server or the stream accepts.
    #[error("the message on {subject:?} is too large: {why}")]
    TooLarge {
        /// The subject.
        subject: String,
        /// What the server said.
        why: String,
    },
    /// Another stream stores it than the messages that it is to be stored together with.
    #[error(
        "stream {stream:?} stores {subject:?}, but stream {other:?} stores other outputs of the event, and outputs = \
         \"atomic\" needs one for all"
    )]
    Apart {
        /// The subject.
        subject: String,
        /// Its stream.
        stream: String,
        /// The stream of the others.
        other: String,
    },
    /// It may work later, and may have worked already: the connection is lost, the stream is full or has no
    /// leader, or the confirmation did not come in time.
    #[error("publishing on {subject:?} was not confirmed: {why}")]
    Unavailable {
        /// The subject.
        subject: String,
        /// What happened.
        why: String,
    },
}

impl PublishError {
    /// What policy makes of it; nothing where waiting may help.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            PublishError::NoStream { .. } => Some(Refusal::NoStream),
            PublishError::Denied { .. } => Some(Refusal::Denied),
            PublishError::TooLarge { .. } => Some(Refusal::TooLarge),
            PublishError::Apart { .. } => Some(Refusal::Apart),
            PublishError::Unavailable { .. } => None,
        }
    }
}
