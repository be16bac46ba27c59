//! What people ask and do while handlers run, or do not: how events stand, waiting retries, dead letters.
//!
//! All of it is done on the streams, so no instance needs to run; only those that do are asked how they are. What a message says, and what it becomes, is
//! policy's business (`tidemill_policy::replay`).

pub mod breakers;
pub mod deploy;
pub mod instances;
pub mod letters;
pub mod overview;
pub mod reloads;
pub mod retries;
pub mod rewind;

use thiserror::Error;
use tidemill_policy::replay::Unreplayable;

use crate::broker::nats::ask::AskError;
use crate::broker::{MarkerError, PublishError};

/// Why something could not be done.
#[derive(Debug, Error)]
pub enum OperateError {
    /// The server denies, refuses or does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The event could not be sent on its way.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What holds a key up cannot be read or replaced.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The dead letter is damaged.
    #[error("dead letter {sequence} in {stream} cannot be replayed: {why}; it stays where it is")]
    Unreplayable {
        /// Its stream.
        stream: String,
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        why: Unreplayable,
    },
    /// A breaker could not be read or set.
    #[error("the circuit breaker: {0}")]
    Breaker(String),
    /// There is nothing to publish retries into.
    #[error("stream {0} does not exist yet; it is made when an instance starts: tidemill run")]
    NoRetryStream(String),
    /// The event was sent on its way, but the message that it was made from is still there.
    #[error("message {sequence} in {stream} was published anew, but could not be deleted: {source}")]
    NotDeleted {
        /// Its stream.
        stream: String,
        /// Its sequence.
        sequence: u64,
        /// What the server says.
        source: AskError,
    },
}

/// The event's id as far as the message tells it.
fn event_id(arrival: &tidemill_policy::arrival::Arrival) -> String {
    arrival.id()
}
