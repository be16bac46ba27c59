//! The path of one event, from its delivery to its settlement.
//!
//! [`Pipeline::handle`] takes a delivery to its settlement. It returns no `Result`, so that nothing can skip
//! settling, and a delivery is acknowledged only after everything its decision demands is confirmed by the broker.
//! Where it is dropped half way, the broker delivers the message again. The steps, of which `pass` is the list:
//!
//! 1. decode the message;
//! 2. recall what is known of the event: it may be done, or its last attempt may have failed;
//! 3. admit it;
//! 4. wait while its key is held up, where `order.on_failure` is `park`;
//! 5. wait at the gate: breaker, brake and rate limit (what has waited so far has not begun, and costs nothing);
//! 6. look whether a newer event of its key was processed, where `order.by` is `latest`;
//! 7. record that the attempt begins, where that must be known if it does not end;
//! 8. invoke the handler;
//! 9. decide what follows;
//! 10. record a failure before anything follows from it;
//! 11. publish the outputs, the retry or the dead letter, and wait for every confirmation;
//! 12. mark the event as done or dead;
//! 13. settle.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::poll_immediate;
use tidemill_policy::admit::admit;
use tidemill_policy::arrival::{self, Arrival};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::decide::{self, Decision, Failure, Setback, Stamp, decide};
use tidemill_policy::decode::decode;
use tidemill_policy::event::{Event, Output};
use tidemill_policy::gate;
use tidemill_policy::history::{AttemptError, Kind, millis};
use tidemill_policy::latest::{self, Stale};
use tidemill_policy::manifest::Handler;
use tidemill_policy::marker::{self, Marker, Next, Standing};
use tidemill_policy::outcome::Outcome;
use tidemill_policy::publication::{self, Case, Publication, ReplayInputs};
use tidemill_policy::retry;
use tidemill_policy::schema::Schemas;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Delivery, PublishError, Published, Settlement, Source};
use crate::clock::Clock;
use crate::fate::{self, Fate, What};
use crate::gate::Gate;
use crate::invoker::{Invoker, Report};
use crate::slots::Slot;

mod claim;
mod memory;
mod newest;
mod outputs;
mod park;
mod wait;
mod work;

pub use memory::Recent;
use memory::{Memory, Remembered};
use newest::Unstored;
pub use work::Taken;
use work::Work;

/// How long a publication that is not confirmed waits before it is tried again: from the first to the second.
const HOLD_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the broker keeps back a delivery that was released.
const RELEASE_DELAY: Duration = Duration::from_secs(1);
/// How long the broker keeps back a delivery whose dead letter cannot be stored at all.
const UNSTORABLE_DELAY: Duration = Duration::from_mins(5);

/// Everything one handler's events need.
pub struct Pipeline<B, I> {
    /// The policy.
    pub handler: Arc<Handler>,
    /// Runs the handler.
    pub invoker: I,
    /// What payloads must fit.
    pub schemas: Arc<Schemas>,
    /// Stores and settles.
    pub broker: Arc<B>,
    /// The first part of our own subjects.
    pub prefix: Arc<str>,
    /// This instance's name.
    pub instance: Arc<str>,
    /// The digest of the handler's component.
    pub component: String,
    /// The time of day.
    pub clock: Clock,
    /// When to give up.
    pub stop: Stop,
    /// What this process knows of events that were or are being handled.
    pub recent: Arc<Recent>,
    /// Where attempts wait.
    pub gate: Arc<Gate>,
}

/// How a process stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled when the process is asked to stop: nothing new is begun.
    pub requested: CancellationToken,
    /// Cancelled when the time to drain is over: what is still running is cut off and handed back.
    pub overdue: CancellationToken,
}

/// What follows a step.
#[allow(clippy::large_enum_variant, reason = "one exists at a time, for each event in flight")]
enum Step {
    /// Settle, and be done.
    Settle(Settlement, What),
    /// Go through the steps again.
    Again,
}

impl Step {
    fn release() -> Step {
        Step::Settle(Settlement::Nak { delay: RELEASE_DELAY }, What::Released)
    }
}

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Takes one delivery all the way to its settlement, and says what became of it. The slot comes back.
    pub async fn handle(&self, taken: Taken<B::Receipt>, slot: Slot) -> (Fate, Option<Slot>) {
        let started = Instant::now();
        let Taken { mut work, receipt } = taken;
        work.slot = Some(slot);
        let (settlement, what) = if let Some(delay) = self.too_early(&work.arrival) {
            (Settlement::Nak { delay }, What::TooEarly)
        } else if self.handler.key_order().is_some() {
            Box::pin(self.go_through_unless_lapsed(&mut work, &receipt)).await
        } else {
            self.go_through(&mut work).await
        };
        // An attempt that we have cut off ourselves does not count.
        if work.memory.has_begun() {
            Box::pin(self.take_back_begin(&mut work)).await;
        }
        self.broker.settle(receipt, settlement, self.handler.ack).await;
        let Work { arrival, retried_in_memory, slot, .. } = *work;
        (Fate { arrival, what, retried_in_memory, elapsed: started.elapsed() }, slot)
    }

    /// Goes through the steps as often as it takes.
    async fn go_through(&self, work: &mut Work) -> (Settlement, What) {
        loop {
            if let Step::Settle(settlement, what) = self.pass(work).await {
                return (settlement, what);
            }
        }
    }

    /// The same for as long as the delivery is sure to be ours: after that, somebody else may be about to run it.
    async fn go_through_unless_lapsed(&self, work: &mut Work, receipt: &B::Receipt) -> (Settlement, What) {
        tokio::select! {
            biased;
            () = self.lapsed(receipt) => (Settlement::Nothing, What::Released),
            end = self.go_through(work) => end,
        }
    }

    /// Waits until a delivery that is not begun may be given to somebody else, see [`Broker::lapsed`].
    pub async fn taken_away(&self, taken: &Taken<B::Receipt>) {
        self.lapsed(&taken.receipt).await;
    }

    /// Only of ordered handlers, deliveries are watched that closely.
    async fn lapsed(&self, receipt: &B::Receipt) {
        match self.handler.key_order() {
            Some(_) => self.broker.lapsed(receipt).await,
            None => pending().await,
        }
    }

    /// Hands a delivery back before it has begun, for another instance to handle. That costs the event no attempt.
    pub async fn hand_back(&self, taken: Taken<B::Receipt>) {
        self.broker.settle(taken.receipt, Settlement::Nak { delay: Duration::ZERO }, self.handler.ack).await;
    }

    /// Takes a delivery in hand, to be handled or handed back.
    pub fn take(&self, delivery: Delivery<B::Receipt>) -> Taken<B::Receipt> {
        let arrival = match delivery.source {
            Source::Input => arrival::first(delivery.message, delivery.position),
            Source::Retry => arrival::retried(delivery.message, delivery.position),
            Source::Partition { created_unix } => {
                arrival::partitioned(delivery.message, delivery.position, created_unix)
            }
        };
        let event = decode(&arrival, &self.handler)
            .map(Arc::new)
            .map_err(|undecodable| Failure::new(Kind::Undecodable, undecodable.to_string()));
        let work = Box::new(Work {
            arrival,
            event,
            memory: Memory::default(),
            sure_since: Instant::now(),
            waited: Duration::ZERO,
            retried_in_memory: 0,
            latest: None,
            slot: None,
            is_repeating: false,
        });
        Taken { work, receipt: delivery.receipt }
    }

    /// How long a retry that was delivered before its time still has to wait.
    fn too_early(&self, arrival: &Arrival) -> Option<Duration> {
        retry::rest(&self.handler.retry, arrival, self.clock.now_ms())
    }

    /// Goes through the steps once: one attempt at most.
    async fn pass(&self, work: &mut Work) -> Step {
        match self.recall(work).await {
            None => return Step::release(),
            Some(Standing::Superseded) if !work.memory.is_dead() && !Box::pin(self.unpark(work)).await => {
                return Step::release();
            }
            Some(Standing::Superseded) => return Step::Settle(Settlement::Ack, What::Duplicate),
            Some(Standing::Claimed | Standing::Elsewhere(_) | Standing::Buried(_)) => {
                return Box::pin(self.wait_for_other(work)).await;
            }
            Some(Standing::TakenAway) => return Step::Settle(Settlement::Nothing, What::Released),
            Some(Standing::Failed(error, next)) => return Box::pin(self.follow(work, error, next, None)).await,
            Some(Standing::Due) => {}
        }
        if let Err(failure) = self.admit(work)
            && let Some(step) = Box::pin(self.refuse(work, failure)).await
        {
            return step;
        }
        if self.handler.parks()
            && let Some(step) = Box::pin(self.wait_while_parked(work)).await
        {
            return step;
        }
        let pass = match self.wait_at_gate(work).await {
            Ok(pass) => pass,
            Err(step) => return step,
        };
        if latest::policy(&self.handler).is_some()
            && let Err(unstored) = Box::pin(self.look_for_newer(work)).await
        {
            return Box::pin(self.unpublished(work, unstored, None)).await;
        }
        match self.begin(work).await {
            Remembered::Stored => {}
            Remembered::Overtaken => return Step::Again,
            Remembered::Unreachable => return Step::release(),
        }
        if pass.is_over() {
            Box::pin(self.take_back_begin(work)).await;
            return Step::Again;
        }
        let Ok(event) = &work.event else { return Step::release() };
        let Some(mut report) = self.invoke(event).await else { return Step::release() };
        pass.report(gate::verdict(&report.outcome));
        let outcome = std::mem::replace(&mut report.outcome, Outcome::Completed(Vec::new()));
        match decide(&self.handler, event, self.schemas.screen(outcome)) {
            Decision::Publish(outputs) => self.publish(work, outputs, report).await,
            Decision::Fail(setback) => Box::pin(self.fail(work, setback, Some(report))).await,
        }
    }

    /// Runs the handler; nothing where the time to drain is over before it has ended.
    async fn invoke(&self, event: &Arc<Event>) -> Option<Report> {
        let mut call = pin!(self.invoker.invoke(Arc::clone(event)));
        // Most calls end at once, and wait for nothing else.
        if let Some(report) = poll_immediate(call.as_mut()).await {
            return Some(report);
        }
        tokio::select! {
            biased;
            report = call => Some(report),
            () = self.stop.overdue.cancelled() => None,
        }
    }

    /// Whether the event may be run; the attempt that is due is known by now.
    fn admit(&self, work: &mut Work) -> Result<(), Failure> {
        match &mut work.event {
            Ok(event) => {
                if event.attempt != work.arrival.attempt {
                    Arc::make_mut(event).attempt = work.arrival.attempt;
                }
                admit(&self.handler, &work.arrival, event, self.clock.now_ms())?;
                self.schemas.admit(event)
            }
            Err(failure) => Err(failure.clone()),
        }
    }

    /// Gives up an event that is not to be run, unless its last attempt had returned: then that is made again.
    async fn refuse(&self, work: &mut Work, mut failure: Failure) -> Option<Step> {
        if failure.kind == Kind::Attempts {
            match self.had_returned(work).await {
                Ok(false) => {}
                Ok(true) => {
                    work.arrival.attempt = Attempt::FIRST.plus(self.handler.retry.max_attempts - 1);
                    match self.admit(work) {
                        Ok(()) => return None,
                        Err(other) => failure = other,
                    }
                }
                Err(_) => return Some(Step::release()),
            }
        }
        Some(Box::pin(self.fail(work, Setback::DeadLetter(failure), None)).await)
    }

    /// Stores the outputs, and marks the event as done.
    async fn publish(&self, work: &mut Work, outputs: Vec<Output>, report: Report) -> Step {
        let Ok(event) = &work.event else { return Step::release() };
        let count = outputs.len();
        let batch = publication::outputs(&self.handler, event, outputs);
        match self.store_outputs(work, &batch).await {
            Ok(Published { repeated: 0, .. }) => {}
            Ok(published) => self.warn_of_repeats(work, &published),
            Err(unstored) => return Box::pin(self.unpublished(work, unstored, Some(report))).await,
        }
        let done = marker::done(&work.arrival);
        self.end(work, done, Settlement::Ack, What::Handled { outputs: count }).await
    }

    /// What becomes of an event that has no outputs stored, though nothing is wrong with its run.
    async fn unpublished(&self, work: &mut Work, unstored: Unstored, report: Option<Report>) -> Step {
        let setback = match (unstored, &work.event) {
            (Unstored::Stale(Stale::Discard { why }), _) => return self.discard(work, why).await,
            (Unstored::Stale(Stale::DeadLetter(failure)) | Unstored::Unplaced(failure), _) => {
                Setback::DeadLetter(failure)
            }
            (Unstored::Fault(fault), Ok(event)) => match fault.refusal() {
                Some(refusal) => decide::refused(&self.handler, event, refusal, fault.to_string()),
                None => return Step::release(),
            },
            (Unstored::Blocked, Ok(event)) => decide::blocked(&self.handler, event),
            (Unstored::Overtaken, _) => return Step::Again,
            (Unstored::Fault(_) | Unstored::Blocked | Unstored::Unreachable, _) => return Step::release(),
        };
        self.fail(work, setback, report).await
    }

    /// Marks the event as done, without any effect.
    async fn discard(&self, work: &mut Work, why: String) -> Step {
        let done = marker::done(&work.arrival);
        match self.conclude(work, done).await {
            Remembered::Stored | Remembered::Overtaken => Step::Settle(Settlement::Ack, What::Stale { why }),
            Remembered::Unreachable => Step::release(),
        }
    }

    /// Records that the attempt has failed, then does what follows.
    async fn fail(&self, work: &mut Work, setback: Setback, report: Option<Report>) -> Step {
        let now_ms = self.clock.now_ms();
        let (failure, next) = match setback {
            Setback::DeadLetter(failure) => (failure, Next::DeadLetter),
            Setback::Retry { delay, failure } if retry::waits_in_memory(&self.handler, work.waited, delay) => {
                (failure, Next::Attempt(now_ms.saturating_add(millis(delay))))
            }
            Setback::Retry { delay, failure } => (failure, Next::Retry(now_ms.saturating_add(millis(delay)))),
        };
        let error = self.error(&work.arrival, failure, report.as_ref());
        let record = marker::failed(&work.arrival, &error, next);
        match self.record(work, record).await {
            Remembered::Stored => self.follow(work, error, next, report).await,
            Remembered::Overtaken => Step::Again,
            Remembered::Unreachable => Step::release(),
        }
    }

    /// Does what follows a recorded failure.
    async fn follow(&self, work: &mut Work, error: AttemptError, next: Next, report: Option<Report>) -> Step {
        match next {
            Next::Attempt(due_ms) => self.retry_in_memory(work, error, due_ms).await,
            Next::Retry(due_ms) => self.retry(work, error, due_ms).await,
            Next::DeadLetter => self.dead_letter(work, error, report).await,
            // Nobody records a failure with this.
            Next::End => Step::release(),
        }
    }

    async fn retry(&self, work: &mut Work, error: AttemptError, due_ms: u64) -> Step {
        let now_ms = self.clock.now_ms();
        let delay = Duration::from_millis(due_ms.saturating_sub(now_ms));
        let clock = self.broker.retry_clock();
        let subject = publication::retry_due_subject(&self.prefix, &self.handler.name, None);
        let bytes_max = self.broker.message_bytes_max(&subject).await;
        let message = publication::retry(self.case(work), &self.prefix, clock, &error, now_ms, delay, bytes_max);
        let Ok(message) = message else { return self.retry_here_instead(work, error, due_ms).await };
        match self.store(&[message]).await {
            Ok(_) => Step::Settle(Settlement::Ack, What::Retried { error, delay }),
            // Its stream takes less than we know.
            Err(PublishError::TooLarge { .. }) => self.retry_here_instead(work, error, due_ms).await,
            Err(fault) => self.unstored(work, "retry", &fault).await,
        }
    }

    /// Attempts an event again on this delivery that cannot be sent on. What follows is recorded first: else it would be
    /// carried out anew each time the process dies in the attempt, which would not be counted.
    async fn retry_here_instead(&self, work: &mut Work, error: AttemptError, due_ms: u64) -> Step {
        let record = marker::failed(&work.arrival, &error, Next::Attempt(due_ms));
        match self.record(work, record).await {
            Remembered::Stored => self.retry_in_memory(work, error, due_ms).await,
            Remembered::Overtaken => Step::Again,
            Remembered::Unreachable => Step::release(),
        }
    }

    /// Waits in this process, with the delivery kept alive, and attempts the event again.
    async fn retry_in_memory(&self, work: &mut Work, error: AttemptError, due_ms: u64) -> Step {
        work.memory.look_again(&self.handler);
        let delay = Duration::from_millis(due_ms.saturating_sub(self.clock.now_ms()));
        let arrival = &mut work.arrival;
        fate::log_retry_in_memory(&self.handler.name, arrival, &error, delay);
        work.retried_in_memory += 1;
        arrival.history = std::mem::take(&mut arrival.history).with(error);
        arrival.attempt = arrival.attempt.plus(1);
        if self.wait(work, delay).await {
            work.waited = work.waited.saturating_add(delay);
            return Step::Again;
        }
        Step::release()
    }

    /// Waits, and lets other events run meanwhile. Returns false when the process is asked to stop.
    async fn wait(&self, work: &mut Work, delay: Duration) -> bool {
        work.give_up_slot();
        let again = async {
            sleep(delay).await;
            work.take_slot().await;
        };
        tokio::select! {
            biased;
            () = self.stop.requested.cancelled() => false,
            () = again => true,
        }
    }

    /// Stores the dead letter, and marks the event as given up.
    async fn dead_letter(&self, work: &mut Work, error: AttemptError, report: Option<Report>) -> Step {
        match self.has_outputs(work).await {
            Ok(false) => {}
            Ok(true) => {
                let done = marker::done(&work.arrival);
                return self.end(work, done, Settlement::Ack, What::Duplicate).await;
            }
            Err(_) => return Step::release(),
        }
        let replay = report.map(|report| ReplayInputs {
            seed: data_encoding::HEXLOWER.encode(&report.seed),
            clock_ms: report.clock_ms,
        });
        if !self.park(work, None).await {
            return Step::release();
        }
        let ttl = self.broker.message_ttl();
        let subject = &self.handler.dead_letter.subject;
        let bytes_max = self.broker.message_bytes_max(subject).await;
        let letter = publication::dead_letter(self.case(work), &error, replay.as_ref(), ttl, bytes_max);
        let stored = match letter {
            Ok(letter) => self.store(&[letter]).await,
            Err(why) => Err(PublishError::TooLarge { subject: subject.clone(), why: why.to_string() }),
        };
        let stored = match stored {
            Ok(published) => published.last,
            Err(fault) => return self.unstored(work, "dead letter", &fault).await,
        };
        if !self.park(work, Some(&stored)).await || !self.withdraw(work).await {
            return Step::release();
        }
        let reason = format!("{}: dead-lettered after attempt {}", error.kind, error.attempt);
        let dead = marker::dead(&work.arrival, Some(stored));
        self.end(work, dead, Settlement::Term { reason }, What::DeadLettered { error }).await
    }

    /// Marks the event as ended, and settles. Where another instance was faster, that is as good: what we have stored has
    /// the same ids.
    async fn end(&self, work: &mut Work, marker: Marker, settlement: Settlement, what: What) -> Step {
        let is_done = matches!(marker, Marker::Done { .. });
        match self.conclude(work, marker).await {
            Remembered::Stored | Remembered::Overtaken
                if is_done && self.handler.parks() && !Box::pin(self.unpark(work)).await =>
            {
                Step::release()
            }
            Remembered::Stored | Remembered::Overtaken => Step::Settle(settlement, what),
            Remembered::Unreachable => Step::release(),
        }
    }

    /// Keeps an event whose retry or dead letter cannot be stored: it stays where it is, for a person to help.
    async fn unstored(&self, work: &mut Work, what: &str, fault: &PublishError) -> Step {
        if matches!(fault, PublishError::Unavailable { .. }) {
            return Step::release();
        }
        tracing::error!(
            handler = %self.handler.name,
            stream = %work.arrival.origin.stream,
            sequence = work.arrival.origin.sequence,
            "cannot store the {what} of an event, which stays in its stream: {fault}"
        );
        // Handed back, it would let the events behind it go first.
        if self.handler.key_order().is_some() {
            work.memory.look_once_more();
            return if self.wait(work, UNSTORABLE_DELAY).await { Step::Again } else { Step::release() };
        }
        Step::Settle(Settlement::Nak { delay: UNSTORABLE_DELAY }, What::Released)
    }

    /// Outputs of an event that nobody can have run before, which the broker takes for repeats, are worth a word: their
    /// ids are somebody else's, or the server has forgotten that it delivered the event.
    fn warn_of_repeats(&self, work: &Work, published: &Published) {
        let arrival = &work.arrival;
        let is_first = arrival.is_first_delivery() && arrival.attempt.is_first() && arrival.source != Source::Retry;
        if is_first && self.handler.dedup.is_none() && !work.is_repeating {
            tracing::warn!(
                handler = %self.handler.name, stream = %published.last.stream, event = arrival.id(),
                "outputs of an event that was delivered for the first time are stored already: the server was killed \
                 and has forgotten its acknowledgement, or somebody publishes under ids of ours"
            );
        }
    }

    fn case<'a>(&'a self, work: &'a Work) -> Case<'a> {
        Case { handler: &self.handler, arrival: &work.arrival, event: work.event.as_deref().ok() }
    }

    /// The entry of the history for a failure. Where all attempts are used up, it stands for the last of them.
    fn error(&self, arrival: &Arrival, failure: Failure, report: Option<&Report>) -> AttemptError {
        let stamp = Stamp {
            now_ms: self.clock.now_ms(),
            component: &self.component,
            instance: &self.instance,
            usage: report.map(|report| report.usage).unwrap_or_default(),
        };
        let attempt = match failure.kind {
            Kind::Attempts => Attempt::FIRST.plus(arrival.attempt.preceding().saturating_sub(1)),
            _ => arrival.attempt,
        };
        failure.into_error(attempt, &self.handler.name, &stamp)
    }

    /// Publishes, and holds on while the broker is unavailable: that slows the intake down and costs no
    /// attempt. Returns `Unavailable` only when the time to drain is over.
    async fn store(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        self.patiently(|| self.broker.publish(batch)).await
    }

    /// Asks the broker for something until it is available.
    async fn patiently<T, F>(&self, request: impl Fn() -> F) -> Result<T, PublishError>
    where
        F: Future<Output = Result<T, PublishError>>,
    {
        match request().await {
            Err(fault @ PublishError::Unavailable { .. }) => Box::pin(self.ask_again(fault, request)).await,
            result => result,
        }
    }

    async fn ask_again<T, F>(&self, mut fault: PublishError, request: impl Fn() -> F) -> Result<T, PublishError>
    where
        F: Future<Output = Result<T, PublishError>>,
    {
        let mut delay = HOLD_DELAYS.0;
        loop {
            tracing::debug!(handler = %self.handler.name, %fault, "holding on to an event");
            if !self.hold(&mut delay).await {
                return Err(fault);
            }
            match request().await {
                Err(again @ PublishError::Unavailable { .. }) => fault = again,
                result => return result,
            }
        }
    }

    /// Waits before something that the broker could not do is tried again, longer each time. Returns false when the
    /// time to drain is over.
    async fn hold(&self, delay: &mut Duration) -> bool {
        tokio::select! {
            biased;
            () = sleep(*delay) => {
                *delay = (*delay * 2).min(HOLD_DELAYS.1);
                true
            }
            () = self.stop.overdue.cancelled() => false,
        }
    }
}

#[cfg(test)]
mod tests;
