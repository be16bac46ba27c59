//! Storing an event's outputs as its policy says: one by one, or all at one moment.

use tidemill_policy::manifest::Outputs;
use tidemill_policy::publication::Publication;

use super::{Pipeline, Work};
use crate::broker::{Broker, PublishError, Published};
use crate::invoker::Invoker;

/// How often a message may have been delivered, beyond twice `max_attempts`, for a lost attempt to be made again.
const RETURNED_DELIVERIES: u32 = 8;

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Sends the outputs, once.
    pub(super) async fn send_outputs(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        match self.handler.outputs {
            Outputs::Atomic if batch.len() > 1 => Box::pin(self.broker.publish_together(batch)).await,
            // One message is stored at one moment anyway.
            Outputs::Atomic | Outputs::Each => self.broker.publish(batch).await,
        }
    }

    /// Whether the outputs of an event that is to be given up are all stored, which is known where they are stored
    /// together: the process may have died after that. Fails only when the time to drain is over.
    pub(super) async fn has_outputs(&self, work: &Work) -> Result<bool, PublishError> {
        if self.handler.outputs != Outputs::Atomic {
            return Ok(false);
        }
        self.has_first_output(work).await
    }

    /// Whether an attempt that was lost had returned: its first output is stored, and others may not be. It is no fault of
    /// the handler that it was not heard of again, so it is made once more, for as long as that is credible.
    pub(super) async fn had_returned(&self, work: &Work) -> Result<bool, PublishError> {
        let most = self.handler.retry.max_attempts.saturating_mul(2).saturating_add(RETURNED_DELIVERIES);
        if self.handler.outputs == Outputs::Atomic || work.arrival.position.delivered > most {
            return Ok(false);
        }
        self.has_first_output(work).await
    }

    async fn has_first_output(&self, work: &Work) -> Result<bool, PublishError> {
        let Ok(event) = &work.event else { return Ok(false) };
        let id = event.token.output(0);
        match self.patiently(|| self.broker.knows(&self.handler.allow.publish, &id)).await {
            // What is refused cannot have been stored.
            Err(fault) if fault.refusal().is_some() => Ok(false),
            answer => answer,
        }
    }
}
