//! Waiting at the gate. The delivery stays in hand and is kept alive meanwhile; that its attempt has not begun is
//! noted, so that the wait costs no attempt even if the process is killed in it.

use std::time::Duration;

use tidemill_policy::marker::{self, Marker, Standing};
use tokio::time::sleep;

use super::memory::Remembered;
use super::{Pipeline, Setback, Step, Taken, Work};
use crate::broker::Broker;
use crate::gate::{Pass, Ticket};
use crate::invoker::Invoker;

/// After how long of waiting it is noted that an attempt has not begun.
pub const NOTE_AFTER: Duration = Duration::from_secs(1);

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Waits until the attempt that is due may begin.
    pub(super) async fn wait_at_gate(&self, work: &mut Work) -> Result<Pass, Step> {
        let pass = match self.gate.pass_freely() {
            Some(pass) => pass,
            None => Box::pin(self.wait_in_line(work)).await?,
        };
        if work.is_noted {
            Box::pin(self.note(work, marker::begun(&work.arrival))).await?;
            work.is_noted = false;
        }
        Ok(pass)
    }

    async fn wait_in_line(&self, work: &mut Work) -> Result<Pass, Step> {
        let ticket = self.gate.line_up(work.arrival.attempt);
        let passed = tokio::select! {
            biased;
            pass = ticket.pass() => Some(pass),
            () = self.stop.requested.cancelled() => return Err(self.give_up_waiting(work).await),
            () = sleep(NOTE_AFTER) => None,
        };
        match passed {
            Some(pass) => Ok(pass),
            None => self.wait_longer(work, &ticket).await,
        }
    }

    /// Notes that an event that waits for its turn to be handled was not begun, where what it waits for is the gate: it
    /// may be a long time.
    pub async fn note_waiting(&self, taken: &mut Taken<B::Receipt>) {
        let work = &mut taken.work;
        if work.is_noted || !self.gate.holds_back() || self.too_early(&work.arrival).is_some() {
            return;
        }
        // Whoever works on the event may be waiting for a slot that comes to this one, which is not taken meanwhile.
        if !self.take_turn_if_free(work) {
            return;
        }
        if matches!(self.recall(work).await, Some(Standing::Due)) {
            work.is_noted = self.note(work, marker::handed_back(&work.arrival)).await.is_ok();
        }
        work.memory.put_down();
    }

    async fn wait_longer(&self, work: &mut Work, ticket: &Ticket) -> Result<Pass, Step> {
        if !work.is_noted {
            self.note(work, marker::handed_back(&work.arrival)).await?;
            work.is_noted = true;
        }
        let pass = tokio::select! {
            biased;
            pass = ticket.pass() => pass,
            () = self.stop.requested.cancelled() => return Err(self.give_up_waiting(work).await),
        };
        // It may have become too old meanwhile.
        match self.admit(work) {
            Ok(()) => Ok(pass),
            Err(failure) => {
                drop(pass);
                Err(self.fail(work, Setback::DeadLetter(failure), None).await)
            }
        }
    }

    /// Hands the event back at a shutdown.
    async fn give_up_waiting(&self, work: &mut Work) -> Step {
        if !work.is_noted {
            self.note_handed_back(work).await;
        }
        Step::release()
    }

    pub(super) async fn note(&self, work: &mut Work, marker: Marker) -> Result<(), Step> {
        match self.record(work, marker).await {
            Remembered::Stored => Ok(()),
            Remembered::Overtaken => Err(Step::Again),
            Remembered::Unreachable => Err(Step::release()),
        }
    }
}
