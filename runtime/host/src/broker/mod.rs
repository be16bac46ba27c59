//! What the pipeline needs from a message broker. Two implementations: NATS `JetStream`, and a scripted one
//! in the pipeline's tests.

pub mod nats;

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tidemill_policy::arrival::{Message, Position};
use tidemill_policy::publication::{Publication, RetryClock};

/// Publishes and settles. Receiving is not part of it: deliveries are pushed into the pipeline by the
/// broker's own tasks.
pub trait Broker: Send + Sync + 'static {
    /// What a delivery is settled by. Dropping it unsettled leaves the message to be redelivered.
    type Receipt: Send + 'static;

    /// Stores all messages and returns when each is confirmed. Nothing is stored of a batch of which it is
    /// known beforehand that some message has no stream.
    fn publish(&self, batch: &[Publication]) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Tells the broker what became of a delivery. Where this does not arrive, the message is redelivered.
    fn settle(&self, receipt: Self::Receipt, settlement: Settlement) -> impl Future<Output = ()> + Send;

    /// How retries wait for their time on this broker.
    fn retry_clock(&self) -> RetryClock;

    /// Whether messages may carry a time to live of their own.
    fn message_ttl(&self) -> bool;
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

/// Where a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The handler's input stream.
    Input,
    /// Our retry stream, whose headers are ours.
    Retry,
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
