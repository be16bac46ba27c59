//! Waiting at the gate. The delivery stays in hand and is kept alive meanwhile; what has not begun costs no attempt, so
//! nothing need be recorded of the wait.

use std::time::Duration;

use tidemill_policy::decide::Setback;
use tidemill_policy::marker::Standing;
use tokio::time::Instant;

use super::{Pipeline, Step, Work};
use crate::broker::Broker;
use crate::gate::Pass;
use crate::invoker::Invoker;

/// After how long of waiting an event is looked at anew: it may have become too old, and another copy of it may have ended.
const KNOWN_FOR: Duration = Duration::from_millis(100);

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Waits until the attempt that is due may begin.
    pub(super) async fn wait_at_gate(&self, work: &mut Work) -> Result<Pass, Step> {
        match self.gate.pass_freely() {
            Some(pass) => Ok(pass),
            None => Box::pin(self.wait_in_line(work)).await,
        }
    }

    async fn wait_in_line(&self, work: &mut Work) -> Result<Pass, Step> {
        let since = Instant::now();
        let ticket = self.gate.line_up(work.arrival.attempt);
        let pass = tokio::select! {
            biased;
            pass = ticket.pass() => pass,
            () = self.stop.requested.cancelled() => return Err(Step::release()),
        };
        if since.elapsed() < KNOWN_FOR {
            return Ok(pass);
        }
        if self.handler.dedup.is_some() {
            work.memory.look_once_more();
            if !matches!(self.recall(work).await, Some(Standing::Due)) {
                work.memory.look_once_more();
                return Err(Step::Again);
            }
        }
        match self.admit(work) {
            Ok(()) => Ok(pass),
            Err(failure) => {
                drop(pass);
                Err(self.fail(work, Setback::DeadLetter(failure), None).await)
            }
        }
    }
}
