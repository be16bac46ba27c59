//! The simulated world of one run: a server, instances that reach it, and what goes wrong between them.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tidemill::broker::{Broker, Delivery, MarkerError, PublishError, Published, Recalled, Settlement, Source, Stored};
use tidemill::clock::Clock;
use tidemill::invoker::{Invoker, Report};
use tidemill_policy::budget::Usage;
use tidemill_policy::event::Event;
use tidemill_policy::id::Token;
use tidemill_policy::latest::Seen;
use tidemill_policy::manifest::{AckMode, Handler};
use tidemill_policy::marker::{self, Carrier, Marker};
use tidemill_policy::outcome::{HandlerError, Interruption, Outcome};
use tidemill_policy::publication::{Publication, RetryClock};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::check::Ledger;
use crate::plan::{Faults, Flow, Plan, name_of};
use crate::rng::Rng;
use crate::server::{Earlier, Lease, Server, Ticket};

/// The time of day at the start.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// Everything that the tasks of one run share.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    start: Instant,
    state: Mutex<State>,
    /// Told whenever a message may have become ready, or the world may have come to rest.
    pub(crate) changed: Notify,
}

pub(crate) struct State {
    pub(crate) server: Server,
    pub(crate) ledger: Ledger,
    pub(crate) faults: Faults,
    pub(crate) rng: Rng,
    pub(crate) trace: Vec<String>,
    pub(crate) earlier: Earlier,
}

/// One process.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    alive: Arc<AtomicBool>,
    reachable: Arc<AtomicBool>,
}

/// What a process gets from the server.
pub(crate) enum Next {
    Delivery(Box<Delivery<Receipt>>),
    /// The next number shows that a delivery did not arrive.
    Lost,
}

/// What a delivery is settled by.
pub(crate) struct Receipt {
    ticket: Ticket,
    lease: Arc<Lease>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.lease.held.store(false, Ordering::Relaxed);
    }
}

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Arc<World> {
        let start = Instant::now();
        let state = State {
            server: Server::new(plan.flow, plan.retries_too_large),
            ledger: Ledger::default(),
            faults: plan.faults,
            rng: Rng::new(seed ^ 0x5EED),
            trace: Vec::new(),
            earlier: Vec::new(),
        };
        Arc::new(World {
            plan,
            clock: Clock::Tokio { start_ms: START_MS, start },
            start,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn note(&self, state: &mut State, text: &str) {
        state.trace.push(format!("{:>8} ms  {text}", self.start.elapsed().as_millis()));
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        self.plan.handler.ack_wait
    }
}

impl Process {
    pub(crate) fn start(world: &Arc<World>, name: String) -> Process {
        let alive = Arc::new(AtomicBool::new(true));
        Process { world: Arc::clone(world), name, reachable: Arc::new(AtomicBool::new(true)), alive }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Ends it: nothing that it does has any effect from now on.
    pub(crate) fn kill(&self, state: &mut State, why: &str) {
        if self.alive.swap(false, Ordering::Relaxed) {
            self.reachable.store(false, Ordering::Relaxed);
            state.ledger.died(&self.name);
            self.world.note(state, &format!("{} dies {why}", self.name));
            self.world.changed.notify_waiters();
        }
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        if self.is_alive() {
            self.reachable.store(reachable, Ordering::Relaxed);
        }
    }

    /// The messages of the input that it holds.
    pub(crate) fn held(&self) -> Vec<u64> {
        let state = self.world.lock();
        let is_held = |lease: &Arc<Lease>| {
            lease.is_of(&self.reachable) && lease.held.load(Ordering::Relaxed) && !lease.end.is_cancelled()
        };
        let held = state.earlier.iter().filter(|((source, _), lease)| *source == Source::Input && is_held(lease));
        held.map(|((_, sequence), _)| *sequence).collect()
    }

    /// What the server says is in flight.
    pub(crate) async fn in_flight(&self) -> Option<(u64, u64)> {
        self.request("ask what is in flight", |state| state.server.in_flight()).await
    }

    /// Waits for the next message; nothing when the process has died.
    pub(crate) async fn next(&self) -> Option<Next> {
        loop {
            let changed = self.world.changed.notified();
            let wake = {
                let mut state = self.world.lock();
                if !self.is_alive() {
                    return None;
                }
                state.server.tick(self.world.clock.now_ms(), self.world.ack_wait());
                // Where events matter to each other, no instance gets all of them because it is asked first.
                let hesitates = self.world.plan.keeps_latest() && state.rng.chance(500);
                if self.reachable.load(Ordering::Relaxed)
                    && !hesitates
                    && let Some(next) = self.take(&mut state)
                {
                    return Some(next);
                }
                state.server.next_change(self.world.ack_wait())
            };
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_mins(1));
            let wake = wake.max(Instant::now() + Duration::from_millis(1));
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn take(&self, state: &mut State) -> Option<Next> {
        let ready = state.server.ready();
        if ready.is_empty() {
            return None;
        }
        let chosen = *state.rng.pick(&ready);
        state.earlier.retain(|(_, lease)| lease.held.load(Ordering::Relaxed));
        let is_own = |lease: &Arc<Lease>| lease.is_of(&self.reachable);
        let held = state.earlier.iter().find(|(of, lease)| *of == chosen && is_own(lease) && !lease.end.is_cancelled());
        if let Some((_, lease)) = held {
            // It is being worked on here: the process leaves it at that, and keeps the lease alive.
            let lease = Arc::clone(lease);
            state.server.deliver(chosen, &lease, &Earlier::new(), self.world.ack_wait());
            self.world.note(state, &format!("{} gets {:?} #{}, which it holds", self.name, chosen.0, chosen.1));
            return None;
        }
        let lease = Lease::new(&self.reachable);
        let per_mille = state.faults.answer_lost;
        if matches!(self.world.plan.flow, Flow::Window(_)) && state.rng.chance(per_mille) {
            lease.held.store(false, Ordering::Relaxed);
            state.server.deliver(chosen, &lease, &Earlier::new(), self.world.ack_wait());
            self.world.note(state, &format!("{}: {:?} #{} is lost on its way", self.name, chosen.0, chosen.1));
            return Some(Next::Lost);
        }
        if self.world.plan.flow != Flow::Free && state.rng.chance(per_mille) {
            lease.is_unheard.store(true, Ordering::Relaxed);
        }
        let handed = state.server.deliver(chosen, &lease, &state.earlier, self.world.ack_wait());
        let event = state.server.event_of(handed.ticket).unwrap_or_default();
        if handed.overlaps {
            state.ledger.forgive(&event);
        }
        let text = format!(
            "{} gets {event} from {:?} #{}, delivery {}",
            self.name, chosen.0, chosen.1, handed.position.delivered
        );
        self.world.note(state, &text);
        state.earlier.push((chosen, Arc::clone(&lease)));
        let receipt = Receipt { ticket: handed.ticket, lease };
        Some(Next::Delivery(Box::new(Delivery {
            message: handed.message,
            position: handed.position,
            source: chosen.0,
            receipt,
        })))
    }

    /// A request to the server with everything that can happen to it: `apply` is what the server does.
    async fn request<T>(&self, what: &str, apply: impl FnOnce(&mut State) -> T) -> Option<T> {
        let (delay, dies_before, lost, dies_after, unanswered) = {
            let mut state = self.world.lock();
            let faults = state.faults;
            let rng = &mut state.rng;
            let delay = if rng.chance(300) { rng.millis(30) } else { Duration::ZERO };
            let dies = rng.chance(faults.death);
            let dies_before = dies && rng.chance(500);
            (delay, dies_before, rng.chance(faults.request_lost), dies, rng.chance(faults.answer_lost))
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if !self.is_alive() {
            return pending().await;
        }
        if dies_before {
            self.kill(&mut self.world.lock(), &format!("before {what}"));
            return pending().await;
        }
        if lost || !self.reachable.load(Ordering::Relaxed) {
            self.world.note(&mut self.world.lock(), &format!("{}: {what} is lost", self.name));
            sleep(Duration::from_secs(1)).await;
            return if self.is_alive() { None } else { pending().await };
        }
        let answer = {
            let mut state = self.world.lock();
            self.world.note(&mut state, &format!("{}: {what}", self.name));
            apply(&mut state)
        };
        self.world.changed.notify_waiters();
        if dies_after {
            self.kill(&mut self.world.lock(), &format!("after {what}"));
            return pending().await;
        }
        if unanswered {
            self.world.note(&mut self.world.lock(), &format!("{}: the answer to {what} is lost", self.name));
            sleep(Duration::from_secs(1)).await;
            return if self.is_alive() { None } else { pending().await };
        }
        Some(answer)
    }
}

impl Broker for Process {
    type Receipt = Receipt;

    async fn publish(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        let subjects: Vec<_> = batch.iter().map(|message| message.subject.as_str()).collect();
        // An answer that is lost may mean that only a part has arrived.
        let count = {
            let mut state = self.world.lock();
            let per_mille = state.faults.answer_lost;
            let is_partial = state.rng.chance(per_mille);
            if is_partial {
                usize::try_from(state.rng.below(batch.len() as u64 + 1)).expect("fits")
            } else {
                batch.len()
            }
        };
        let now_ms = self.world.clock.now_ms();
        let what = format!("publish [{}]", subjects.join(", "));
        let stored = self.request(&what, |state| {
            let stored = state.server.publish(batch, count, now_ms);
            state.ledger.published(&self.world.plan, &state.server, batch);
            stored
        });
        let stored = stored.await;
        let unavailable = || PublishError::Unavailable { subject: String::new(), why: "simulated".into() };
        match stored {
            Some(Ok(_)) if count < batch.len() => Err(unavailable()),
            Some(result) => result,
            None => Err(unavailable()),
        }
    }

    async fn carries(&self, handler: &str, token: &Token, carriers: &[Carrier]) -> Result<bool, MarkerError> {
        let what = format!("ask for {carriers:?}");
        let answer = self.request(&what, |state| state.server.carries(handler, token, carriers)).await;
        answer.ok_or_else(|| MarkerError::Unavailable("simulated".into()))
    }

    fn has_legacy_markers(&self, _: &Handler) -> bool {
        false
    }

    async fn publish_together(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        let now_ms = self.world.clock.now_ms();
        let what = format!("publish {} together", batch.len());
        let stored = self.request(&what, |state| {
            let stored = state.server.publish_together(batch, now_ms);
            state.ledger.published(&self.world.plan, &state.server, batch);
            stored
        });
        stored
            .await
            .unwrap_or_else(|| Err(PublishError::Unavailable { subject: String::new(), why: "simulated".into() }))
    }

    async fn knows(&self, patterns: &[String], id: &str) -> Result<bool, PublishError> {
        let is_stored_there = patterns.iter().any(|pattern| pattern.starts_with("out."));
        let what = format!("ask for output {id}");
        let known = self.request(&what, |state| {
            let known = is_stored_there && state.server.knows(id);
            state.ledger.asked(&state.server, id, known);
            known
        });
        known.await.ok_or_else(|| PublishError::Unavailable { subject: String::new(), why: "simulated".into() })
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement, _ack: AckMode) {
        if settlement == Settlement::Nothing || receipt.lease.end.is_cancelled() {
            return;
        }
        // As against a real server: what it delivers again at once must not be taken for what is still held.
        receipt.lease.held.store(false, Ordering::Relaxed);
        let ticket = receipt.ticket;
        let what = format!("settle {:?} #{} with {settlement:?}", ticket.source, ticket.sequence);
        let settled = self.request(&what, |state| {
            let event = state.server.event_of(ticket);
            let is_nak = matches!(settlement, Settlement::Nak { .. });
            if let Some(event) = event.as_ref().filter(|_| is_nak) {
                state.ledger.handed_back(event, &self.name);
            }
            if let Some(event) = event.filter(|_| !is_nak) {
                let continues = state.server.has_message_of(&event, Some(ticket));
                state.ledger.ended_message(&self.world.plan, &state.server, &event, continues);
            }
            state.server.settle(ticket, &settlement);
        });
        settled.await;
    }

    async fn recall(&self, key: &str) -> Result<Recalled, MarkerError> {
        let recalled = self.request("recall", |state| state.server.recall(key)).await;
        recalled.ok_or_else(|| MarkerError::Unavailable("simulated".into()))
    }

    async fn remember(
        &self,
        key: &str,
        marker: &Marker,
        lifetime: Duration,
        revision: u64,
    ) -> Result<u64, MarkerError> {
        let what = match marker {
            Marker::Open(progress) => {
                format!("remember {} attempts of {}, then {:?}", progress.attempts, progress.message, progress.next)
            }
            Marker::Newest(newest) => {
                let event =
                    |seen: &Option<Seen>| seen.as_ref().map(|seen| (seen.time_ns / 1_000_000_000, seen.sequence));
                format!("remember newest {:?}, entered {:?}", event(&newest.processed), event(&newest.entered))
            }
            marker => format!("remember {marker:?}"),
        };
        let written = self.request(&what, |state| {
            let written = state.server.remember(key, marker, lifetime, revision);
            if let (Ok(_), Marker::Open(progress)) = (&written, marker)
                && progress.next == marker::Next::End
                && let Some(event) = state.server.event_named(&progress.message)
            {
                state.ledger.begins(&event, &self.name);
            }
            written
        });
        let written = written.await;
        written.unwrap_or_else(|| Err(MarkerError::Unavailable("simulated".into())))
    }

    async fn lapsed(&self, receipt: &Receipt) {
        let time = self.world.ack_wait() * 3 / 4;
        let unheard = async {
            loop {
                let prolonged = receipt.lease.prolonged();
                if prolonged.elapsed() >= time {
                    return;
                }
                tokio::time::sleep_until(prolonged + time).await;
            }
        };
        tokio::select! {
            biased;
            () = receipt.lease.end.cancelled() => {}
            () = unheard => {}
        }
    }

    async fn read_record(&self, key: &str) -> Result<Stored, MarkerError> {
        let read = self.request("read record", |state| state.server.read_record(key)).await;
        read.ok_or_else(|| MarkerError::Unavailable("simulated".into()))
    }

    async fn replace_record(&self, key: &str, value: Bytes, _: Duration, revision: u64) -> Result<u64, MarkerError> {
        let what = format!("replace record {key} by {}", String::from_utf8_lossy(&value));
        let written = self.request(&what, |state| state.server.replace_record(key, value, revision)).await;
        written.unwrap_or_else(|| Err(MarkerError::Unavailable("simulated".into())))
    }

    async fn pause(&self, _: &[(String, String)], _: Option<u64>) -> Result<(), String> {
        Ok(())
    }

    async fn message_bytes_max(&self, _: &str) -> usize {
        usize::MAX
    }

    fn retry_clock(&self) -> RetryClock {
        self.world.plan.retry_clock
    }

    fn message_ttl(&self) -> bool {
        true
    }
}

struct CutOff {
    world: Arc<World>,
    run: usize,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        self.world.lock().ledger.cut_off(self.run);
    }
}

impl Invoker for Process {
    async fn invoke(&self, event: Arc<Event>) -> Report {
        if !self.is_alive() {
            return pending().await;
        }
        let timeout = self.world.plan.handler.limits.budget.timeout;
        let script = self.world.plan.script(name_of(&event.headers));
        let (run, takes, dies) = {
            let mut state = self.world.lock();
            self.world.note(&mut state, &format!("{}: runs {} attempt {}", self.name, script.id, event.attempt));
            let now_ms = self.world.clock.now_ms();
            let State { ledger, server, .. } = &mut *state;
            let run = ledger.begin_run(&self.world.plan, server, &self.name, &event, now_ms);
            let faults = state.faults;
            let takes = if state.rng.chance(faults.slow) { state.rng.millis(6_000) } else { state.rng.millis(20) };
            let dies = state.rng.chance(faults.death_in_handler) || script.kills(&event);
            (run, takes, dies)
        };
        // Where it is cut off, it does not run any more.
        let _cut_off = CutOff { world: Arc::clone(&self.world), run };
        sleep(takes.min(timeout)).await;
        if dies && self.is_alive() {
            self.kill(&mut self.world.lock(), &format!("in the handler of {}", script.id));
        }
        if !self.is_alive() {
            return pending().await;
        }
        let outcome = if takes > timeout {
            Outcome::TimedOut(Interruption::default())
        } else if self.world.start.elapsed() < self.world.plan.outage {
            let error = HandlerError { message: "the downstream does not answer".into(), ..HandlerError::default() };
            Outcome::Retry { error, delay: None }
        } else {
            script.outcome(&event)
        };
        self.world.lock().ledger.end_run(run, &outcome);
        Report { outcome, usage: Usage::default(), seed: [0; 32], clock_ms: 0 }
    }
}
