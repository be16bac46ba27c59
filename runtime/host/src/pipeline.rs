//! The path of one event, from its delivery to its settlement.
//!
//! [`Pipeline::handle`] is the list of steps. It returns no `Result`, so that nothing can skip settling, and a
//! delivery is acknowledged only after everything its decision demands is confirmed by the broker. Where it
//! is dropped half way, the broker delivers the message again.

use std::sync::Arc;
use std::time::Duration;

use tidemill_policy::admit::admit;
use tidemill_policy::arrival::{self, Arrival};
use tidemill_policy::decide::{Decision, Failure, Stamp, decide};
use tidemill_policy::decode::decode;
use tidemill_policy::event::{Event, Output};
use tidemill_policy::history::{AttemptError, Kind};
use tidemill_policy::manifest::Handler;
use tidemill_policy::outcome::Outcome;
use tidemill_policy::publication::{self, Case, Publication, ReplayInputs};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Delivery, PublishError, Settlement, Source};
use crate::clock::Clock;
use crate::fate::{Fate, What};
use crate::invoker::{Invoker, Report};

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
    /// Stores and settles.
    pub broker: Arc<B>,
    /// The first part of our own subjects.
    pub prefix: String,
    /// This instance's name.
    pub instance: String,
    /// The digest of the handler's component.
    pub component: String,
    /// The time of day.
    pub clock: Clock,
    /// When to give up.
    pub stop: Stop,
}

/// How a process stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled when the process is asked to stop: nothing new is begun.
    pub requested: CancellationToken,
    /// Cancelled when the time to drain is over: what is still running is cut off and handed back.
    pub overdue: CancellationToken,
}

/// What an attempt came to.
struct Attempted {
    event: Option<Event>,
    decision: Decision,
    report: Option<Report>,
}

/// What follows after a decision was carried out.
#[allow(clippy::large_enum_variant, reason = "one exists at a time, for each event in flight")]
enum Step {
    /// Settle, and be done.
    Settle(Settlement, What),
    /// The next attempt is due now.
    AgainInPlace,
}

impl Step {
    fn release() -> Step {
        Step::Settle(Settlement::Nak { delay: RELEASE_DELAY }, What::Released)
    }
}

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Takes one delivery all the way to its settlement, and says what became of it.
    pub async fn handle(&self, delivery: Delivery<B::Receipt>) -> Fate {
        let started = Instant::now();
        let mut arrival = match delivery.source {
            Source::Input => arrival::first(delivery.message, &delivery.position),
            Source::Retry => arrival::retried(delivery.message, &delivery.position),
        };
        let (settlement, what) = if let Some(delay) = self.too_early(&arrival) {
            (Settlement::Nak { delay }, What::TooEarly)
        } else {
            loop {
                let step = match self.attempt(&arrival).await {
                    Some(attempted) => self.carry_out(&mut arrival, attempted).await,
                    None => Step::release(),
                };
                match step {
                    Step::Settle(settlement, what) => break (settlement, what),
                    Step::AgainInPlace => {}
                }
            }
        };
        self.broker.settle(delivery.receipt, settlement).await;
        Fate { arrival, what, elapsed: started.elapsed() }
    }

    /// How long a retry that was delivered before its time still has to wait.
    fn too_early(&self, arrival: &Arrival) -> Option<Duration> {
        let rest = arrival.not_before_ms?.saturating_sub(self.clock.now_ms());
        (rest > 0).then(|| Duration::from_millis(rest))
    }

    /// Decodes, admits, invokes and decides. Returns nothing if the attempt was cut off because the process
    /// stops.
    async fn attempt(&self, arrival: &Arrival) -> Option<Attempted> {
        let event = match decode(arrival, self.handler.format, self.handler.retry.max_attempts) {
            Ok(event) => event,
            Err(undecodable) => {
                let failure = Failure::new(Kind::Undecodable, undecodable.to_string());
                return Some(Attempted { event: None, decision: Decision::DeadLetter(failure), report: None });
            }
        };
        if let Err(failure) = admit(&self.handler, &event) {
            return Some(Attempted { event: Some(event), decision: Decision::DeadLetter(failure), report: None });
        }
        let mut report = tokio::select! {
            report = self.invoker.invoke(event.clone()) => report,
            () = self.stop.overdue.cancelled() => return None,
        };
        let outcome = std::mem::replace(&mut report.outcome, Outcome::Completed(Vec::new()));
        let decision = decide(&self.handler, &event, outcome);
        Some(Attempted { event: Some(event), decision, report: Some(report) })
    }

    /// Publishes what the decision demands, and says how to settle once that is confirmed.
    async fn carry_out(&self, arrival: &mut Arrival, attempted: Attempted) -> Step {
        let Attempted { event, decision, report } = attempted;
        let event = event.as_ref();
        match decision {
            Decision::Publish(outputs) => self.publish_outputs(arrival, event, outputs, report).await,
            Decision::Retry { delay, failure } => self.retry(arrival, event, delay, failure, report).await,
            Decision::DeadLetter(failure) => self.dead_letter(arrival, event, failure, report).await,
        }
    }

    async fn publish_outputs(
        &self,
        arrival: &mut Arrival,
        event: Option<&Event>,
        outputs: Vec<Output>,
        report: Option<Report>,
    ) -> Step {
        let Some(event) = event else { return Step::release() };
        let count = outputs.len();
        let batch = publication::outputs(&self.handler, event, outputs);
        match self.store(&batch).await {
            Ok(()) => Step::Settle(Settlement::Ack, What::Handled { outputs: count }),
            Err(PublishError::Unavailable { .. }) => Step::release(),
            Err(fault) => {
                let outcome = match &fault {
                    PublishError::Denied { .. } => Outcome::Denied { message: fault.to_string() },
                    _ => Outcome::OutputRefused {
                        transient: matches!(fault, PublishError::NoStream { .. }),
                        message: fault.to_string(),
                    },
                };
                match decide(&self.handler, event, outcome) {
                    Decision::Retry { delay, failure } => {
                        self.retry(arrival, Some(event), delay, failure, report).await
                    }
                    Decision::DeadLetter(failure) => self.dead_letter(arrival, Some(event), failure, report).await,
                    Decision::Publish(_) => Step::release(),
                }
            }
        }
    }

    async fn retry(
        &self,
        arrival: &mut Arrival,
        event: Option<&Event>,
        delay: Duration,
        failure: Failure,
        report: Option<Report>,
    ) -> Step {
        let error = self.error(arrival, failure, report.as_ref());
        if !publication::retries_through_stream(&self.handler) {
            return self.retry_in_place(arrival, delay, error).await;
        }
        let case = Case { handler: &self.handler, arrival, event };
        let now_ms = self.clock.now_ms();
        let message = publication::retry(case, &self.prefix, self.broker.retry_clock(), &error, now_ms, delay);
        match self.store(&[message]).await {
            Ok(()) => Step::Settle(Settlement::Ack, What::Retried { error, delay }),
            // The history makes the message larger than it was: one that just fitted does not any more.
            Err(PublishError::TooLarge { .. }) => self.retry_in_place(arrival, delay, error).await,
            Err(fault) => self.unstored(arrival, "retry", &fault),
        }
    }

    /// Waits in this process, with the delivery kept alive, and attempts the event again.
    async fn retry_in_place(&self, arrival: &mut Arrival, delay: Duration, error: AttemptError) -> Step {
        tokio::select! {
            () = sleep(delay) => {
                arrival.history = std::mem::take(&mut arrival.history).with(error);
                arrival.attempt = arrival.attempt.plus(1);
                Step::AgainInPlace
            }
            () = self.stop.requested.cancelled() => Step::release(),
        }
    }

    async fn dead_letter(
        &self,
        arrival: &Arrival,
        event: Option<&Event>,
        failure: Failure,
        report: Option<Report>,
    ) -> Step {
        let error = self.error(arrival, failure, report.as_ref());
        let replay = report.map(|report| ReplayInputs {
            seed: data_encoding::HEXLOWER.encode(&report.seed),
            clock_ms: report.clock_ms,
        });
        let case = Case { handler: &self.handler, arrival, event };
        let letter = publication::dead_letter(case, &error, replay.as_ref(), self.broker.message_ttl());
        match self.store(&[letter]).await {
            Ok(()) => {
                let reason = format!("{}: dead-lettered after attempt {}", error.kind, error.attempt);
                Step::Settle(Settlement::Term { reason }, What::DeadLettered { error })
            }
            Err(fault) => self.unstored(arrival, "dead letter", &fault),
        }
    }

    /// Keeps an event whose retry or dead letter cannot be stored: it stays where it is, for a person to help.
    fn unstored(&self, arrival: &Arrival, what: &str, fault: &PublishError) -> Step {
        if matches!(fault, PublishError::Unavailable { .. }) {
            return Step::release();
        }
        tracing::error!(
            handler = %self.handler.name,
            stream = %arrival.origin.stream,
            sequence = arrival.origin.sequence,
            "cannot store the {what} of an event, which stays in its stream: {fault}"
        );
        Step::Settle(Settlement::Nak { delay: UNSTORABLE_DELAY }, What::Released)
    }

    fn error(&self, arrival: &Arrival, failure: Failure, report: Option<&Report>) -> AttemptError {
        let stamp = Stamp {
            now_ms: self.clock.now_ms(),
            component: &self.component,
            instance: &self.instance,
            usage: report.map(|report| report.usage).unwrap_or_default(),
        };
        failure.into_error(arrival.attempt, &self.handler.name, &stamp)
    }

    /// Publishes, and holds on while the broker is unavailable: that slows the intake down and costs no
    /// attempt. Returns `Unavailable` only when the time to drain is over.
    async fn store(&self, batch: &[Publication]) -> Result<(), PublishError> {
        let mut delay = HOLD_DELAYS.0;
        loop {
            let fault = match self.broker.publish(batch).await {
                Err(fault @ PublishError::Unavailable { .. }) => fault,
                result => return result,
            };
            tracing::debug!(handler = %self.handler.name, %fault, "holding on to an event");
            tokio::select! {
                () = sleep(delay) => delay = (delay * 2).min(HOLD_DELAYS.1),
                () = self.stop.overdue.cancelled() => return Err(fault),
            }
        }
    }
}

#[cfg(test)]
mod tests;
