//! Where attempts of one handler wait: for the circuit breaker, for the outage brake, for the rate limit. The rules are
//! in [`tidemill_policy::gate`]; here is their state in this process. What instances share is looked after by
//! [`keeper`].
//!
//! Whoever waits has a [`Ticket`], and runs with a [`Pass`]. How much may be pulled meanwhile is told by
//! [`Gate::intake`]: events that cannot be run soon stay with the broker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::gate::brake::{Brake, Change};
use tidemill_policy::gate::breaker::{self, Record, State as Breaker, Tally};
use tidemill_policy::gate::rate::{self, Meter};
use tidemill_policy::gate::{Start, Verdict};
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Across, Handler, RateLimit, RetryPolicy};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::clock::Clock;

pub mod keeper;

/// How long after it was let through an attempt of a handler with a rate limit may begin.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// For how long a grant of a shared limit may be used after it has arrived.
const GRANT_AGE_MAX: Duration = Duration::from_millis(100);

/// Where the attempts of one handler wait.
#[derive(Debug)]
pub struct Gate {
    handler: Arc<Handler>,
    clock: Clock,
    state: Mutex<State>,
    /// Told whenever there is something for the keeper to do.
    work: Notify,
    intake: watch::Sender<u32>,
}

#[derive(Debug, Default)]
struct State {
    brake: Brake,
    /// By which the brake pauses; nothing where it is the handler's still.
    retry: Option<RetryPolicy>,
    tally: Tally,
    meter: Meter,
    record: Record,
    /// A right to try an event that nobody uses yet.
    claim: Option<breaker::Probe>,
    /// When attempts may begin by a limit that instances share, in nanoseconds since the Unix epoch, and until when
    /// that is to be made use of.
    grants: VecDeque<(u64, Instant)>,
    /// Who waits, by ticket.
    waiting: BTreeMap<u64, Waiting>,
    tickets: u64,
    /// What the keeper is to tell the other instances.
    news: VecDeque<News>,
}

/// Somebody who waits.
#[derive(Debug)]
struct Waiting {
    /// The attempt that is due.
    attempt: u32,
    /// Told when it may be their turn.
    turn: Arc<Notify>,
}

/// What is to be told to other instances.
#[derive(Debug, Clone, PartialEq, Eq)]
enum News {
    /// The breaker is to open.
    Open { reason: String },
    /// A probe has ended, with no result where it was cut off.
    Probed { holder: String, succeeded: Option<bool> },
}

/// What a gate does, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// How many events wait at it, in hand.
    pub waiting: usize,
    /// The breaker: `closed`, `open`, `half-open`, or `held` where it was opened by hand.
    pub breaker: &'static str,
    /// Since when the breaker is in that, in milliseconds since the Unix epoch; nothing where it was always closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Until when it stays open, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The outage brake, where it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brake: Option<BrakeReport>,
}

/// The outage brake, where it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BrakeReport {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How many attempts are made at once.
    pub width: u32,
    /// How many of them in a row have failed.
    pub failures: u32,
}

impl Gate {
    /// A gate through which nothing has gone yet.
    pub fn new(handler: Arc<Handler>, clock: Clock) -> Arc<Gate> {
        let gate = Gate { handler, clock, state: Mutex::default(), work: Notify::new(), intake: watch::Sender::new(0) };
        gate.tell(&gate.lock());
        Arc::new(gate)
    }

    /// Follows another retry policy from now on. The rest of the handler's policy must be as it was, as far as it
    /// concerns the gate.
    pub fn follow(&self, retry: &RetryPolicy) {
        self.lock().retry = Some(retry.clone());
    }

    /// How many events of each stream may be in hand, as it changes.
    pub fn intake(&self) -> watch::Receiver<u32> {
        self.intake.subscribe()
    }

    /// Passes at once, where nothing keeps attempts back and nobody waits.
    pub fn pass_freely(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.lock();
        if self.handler.rate_limit.is_some() || !state.is_quiet() {
            return None;
        }
        state.brake.began();
        drop(state);
        Some(Pass { gate: Arc::clone(self), probe: None, since: Instant::now(), verdict: None })
    }

    /// Gets in line with an attempt.
    pub fn line_up(self: &Arc<Self>, attempt: Attempt) -> Ticket {
        let mut state = self.lock();
        state.tickets += 1;
        let (number, turn) = (state.tickets, Arc::new(Notify::new()));
        state.waiting.insert(number, Waiting { attempt: attempt.get(), turn: Arc::clone(&turn) });
        self.tell(&state);
        Ticket { gate: Arc::clone(self), number, turn }
    }

    /// What it does now.
    pub fn report(&self) -> GateReport {
        let state = self.lock();
        let record = breaker::settled(&state.record, self.clock.now_ms());
        let until_ms = match record.state {
            Breaker::Open { until_ms } => Some(until_ms),
            Breaker::Held { until_ms } => until_ms,
            Breaker::Closed | Breaker::HalfOpen { .. } => None,
        };
        GateReport {
            waiting: state.waiting.len(),
            breaker: record.state.name(),
            since_ms: (record.since_ms > 0).then_some(record.since_ms),
            until_ms,
            reason: record.reason,
            brake: state.brake.hold().map(|hold| BrakeReport {
                since_ms: hold.since_ms,
                width: hold.width,
                failures: hold.failures,
            }),
        }
    }

    /// Whether events may wait here for long.
    pub fn holds_back(&self) -> bool {
        let state = self.lock();
        if state.brake.hold().is_some() || self.handler.rate_limit.is_some() {
            return true;
        }
        // Mostly it is closed, and nobody needs to know the time.
        let is_closed = matches!(state.record.state, Breaker::Closed);
        !is_closed && breaker::next(&state.record, self.clock.now_ms()) != Start::Now
    }

    /// Lets the holder of a ticket pass, or says when to try again.
    fn try_pass(self: &Arc<Self>, number: u64) -> Result<Pass, Start> {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        if state.first() != Some(number) {
            return Err(Start::Later);
        }
        let claim = state.claim.clone().filter(|claim| now_ms < claim.until_ms);
        match breaker::next(&state.record, now_ms) {
            Start::Now => {}
            _ if claim.is_some() => {}
            later => return Err(later),
        }
        match state.brake.next(now_ms) {
            Start::Now => {}
            later => return Err(later),
        }
        if let Some(limit) = &self.handler.rate_limit {
            state.begin_within(limit, nanos(now_ms))?;
        }
        let probe = if breaker::next(&state.record, now_ms) == Start::Now { None } else { claim };
        if probe.is_some() {
            state.claim = None;
        }
        state.waiting.remove(&number);
        state.brake.began();
        self.let_others_go_on(&state);
        Ok(Pass { gate: Arc::clone(self), probe, since: Instant::now(), verdict: None })
    }

    /// Notes that an attempt has ended.
    fn ended(&self, probe: Option<&breaker::Probe>, verdict: Option<Verdict>) {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        let was_quiet = state.is_quiet();
        if self.handler.outage_brake {
            let State { brake, retry, .. } = &mut *state;
            let retry = retry.as_ref().unwrap_or(&self.handler.retry);
            let change = brake.ended(retry, self.handler.concurrency, verdict, now_ms);
            self.log_brake(change);
        }
        let failed = verdict.map(Verdict::is_failure);
        if let Some(probe) = probe {
            let succeeded = failed.map(|failed| !failed);
            state.news.push_back(News::Probed { holder: probe.holder.clone(), succeeded });
        } else if let (Some(policy), Some(failed)) = (&self.handler.circuit_breaker, failed)
            && breaker::next(&state.record, now_ms) == Start::Now
            && let Some(reason) = state.tally.observe(&policy.trigger, failed, now_ms)
            && let Some(record) = breaker::opened(policy, &state.record, &reason, now_ms)
        {
            // Here at once; the others are told.
            self.adopt(&mut state, record);
            state.news.push_back(News::Open { reason });
        }
        if !was_quiet || !state.is_quiet() {
            self.let_others_go_on(&state);
        }
    }

    /// Has whoever is first in line, and the keeper, look at what has changed.
    fn let_others_go_on(&self, state: &State) {
        self.tell(state);
        if let Some(waiting) = state.first().and_then(|first| state.waiting.get(&first)) {
            waiting.turn.notify_one();
        }
        if !state.news.is_empty() {
            self.work.notify_one();
        }
    }

    /// Takes over what the breaker is in, as it was read.
    fn take_over(&self, record: Record) {
        let mut state = self.lock();
        if state.record != record {
            self.adopt(&mut state, record);
            self.let_others_go_on(&state);
        }
    }

    fn adopt(&self, state: &mut State, record: Record) {
        let (before, after) = (state.record.state.name(), record.state.name());
        if before != after {
            state.tally = Tally::default();
            self.log_breaker(after, &record);
        }
        state.record = record;
    }

    fn log_breaker(&self, name: &str, record: &Record) {
        let handler = self.handler.name.as_str();
        let until = match record.state {
            Breaker::Open { until_ms } | Breaker::Held { until_ms: Some(until_ms) } => {
                tidemill_policy::decide::rfc3339(until_ms)
            }
            _ => String::new(),
        };
        match record.state {
            Breaker::Open { .. } | Breaker::Held { .. } => {
                tracing::warn!(handler, breaker = name, until, reason = %record.reason, "no more events are taken");
            }
            Breaker::HalfOpen { .. } => tracing::info!(handler, breaker = name, "events are tried one at a time"),
            Breaker::Closed => tracing::info!(handler, breaker = name, "events are taken again"),
        }
    }

    fn log_brake(&self, change: Option<Change>) {
        let handler = self.handler.name.as_str();
        match change {
            None => {}
            Some(Change::On) => tracing::warn!(
                handler,
                "nearly every attempt fails in a way that may pass: events wait, and are tried one at a time"
            ),
            Some(Change::Off(lasted)) => {
                tracing::info!(handler, lasted_ms = millis(lasted), "attempts succeed again: events no longer wait");
            }
        }
    }

    /// Tells how many events may be in hand.
    fn tell(&self, state: &State) {
        let now_ms = self.clock.now_ms();
        let by_rate = self.handler.rate_limit.as_ref().map_or(u32::MAX, rate::in_hand);
        let by_brake = state.brake.hold().map_or(u32::MAX, |hold| hold.width);
        let by_breaker = match breaker::next(&state.record, now_ms) {
            Start::Now => u32::MAX,
            _ if breaker::is_trying(&state.record, now_ms) && state.waiting.is_empty() => 1,
            _ => 0,
        };
        let wanted = by_rate.min(by_brake).min(by_breaker);
        self.intake.send_if_modified(|intake| std::mem::replace(intake, wanted) != wanted);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nothing keeps attempts back, nobody waits, and there is nothing to tell.
    fn is_quiet(&self) -> bool {
        let is_closed = matches!(self.record.state, Breaker::Closed);
        is_closed && self.brake.hold().is_none() && self.waiting.is_empty() && self.news.is_empty()
    }

    /// Who goes next: whoever came first; but where only few are tried, an event that has most of its attempts left, so
    /// that no single one uses up its own.
    fn first(&self) -> Option<u64> {
        let is_trying = self.brake.hold().is_some() || !matches!(self.record.state, Breaker::Closed);
        if !is_trying {
            return self.waiting.keys().next().copied();
        }
        let by_attempt = |(number, waiting): &(&u64, &Waiting)| (waiting.attempt, **number);
        self.waiting.iter().min_by_key(by_attempt).map(|(number, _)| *number)
    }

    /// Takes a beginning out of the rate limit, or says when there is one.
    fn begin_within(&mut self, limit: &RateLimit, now_ns: u64) -> Result<(), Start> {
        let start_ns = match limit.across {
            Across::Instance => rate::earliest(limit, &self.meter, now_ns),
            Across::Instances => {
                let now = Instant::now();
                self.grants.retain(|(_, until)| now <= *until);
                self.grants.front().ok_or(Start::Later)?.0
            }
        };
        if start_ns > now_ns {
            return Err(Start::At(start_ns.div_ceil(1_000_000)));
        }
        match limit.across {
            Across::Instance => _ = rate::reserve(limit, &mut self.meter, now_ns),
            Across::Instances => _ = self.grants.pop_front(),
        }
        Ok(())
    }
}

/// A place in line; given up when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    turn: Arc<Notify>,
}

impl Ticket {
    /// Waits until an attempt may begin. Where this is dropped, the place in line is kept.
    pub async fn pass(&self) -> Pass {
        loop {
            let start = match self.gate.try_pass(self.number) {
                Ok(pass) => return pass,
                Err(start) => start,
            };
            self.gate.work.notify_one();
            match start {
                Start::At(at_ms) => {
                    let rest = Duration::from_millis(at_ms.saturating_sub(self.gate.clock.now_ms()).max(1));
                    tokio::select! {
                        biased;
                        () = self.turn.notified() => {}
                        () = sleep(rest) => {}
                    }
                }
                Start::Now | Start::Later => self.turn.notified().await,
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        if state.waiting.remove(&self.number).is_some() {
            self.gate.let_others_go_on(&state);
        }
    }
}

/// The right to begin one attempt. Where it is dropped without a report, the attempt was cut off, or never begun.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    probe: Option<breaker::Probe>,
    since: Instant,
    verdict: Option<Verdict>,
}

impl Pass {
    /// Whether the attempt has not begun in time, because the broker was slow: somebody else may try an event by now,
    /// or too many attempts would begin at once.
    pub fn is_over(&self) -> bool {
        let probe_is_over = self.probe.as_ref().is_some_and(|probe| probe.until_ms <= self.gate.clock.now_ms());
        probe_is_over || (self.gate.handler.rate_limit.is_some() && self.since.elapsed() > BEGIN_MAX)
    }

    /// Says what the attempt ended in.
    pub fn report(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.ended(self.probe.as_ref(), self.verdict);
    }
}

fn nanos(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests;
