//! Storing an event's outputs as its policy says: one by one, or all at one moment.

use tidemill_policy::manifest::Outputs;
use tidemill_policy::publication::Publication;

use super::{Pipeline, Work};
use crate::broker::{Broker, PublishError, Published};
use crate::invoker::Invoker;

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
        let (Outputs::Atomic, Ok(event)) = (self.handler.outputs, &work.event) else { return Ok(false) };
        let id = event.token.output(0);
        match self.patiently(|| self.broker.knows(&self.handler.allow.publish, &id)).await {
            // What is refused cannot have been stored.
            Err(fault) if fault.refusal().is_some() => Ok(false),
            answer => answer,
        }
    }
}
