//! One loaded component as an [`Invoker`]: budget, instances, and the report of each invocation.
//!
//! A handler is immutable once loaded; a changed component or limit is a new handler.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::poll_immediate;
use tidemill_policy::budget::{Budget, Usage};
use tidemill_policy::event::Event;
use tidemill_policy::manifest::Isolation;
use tidemill_policy::outcome::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::chance::Chance;
use super::engine::{Engine, Room};
use super::entry::EntryPre;
use super::habit::Habit;
use super::http::Client;
use super::inspect::Inspection;
use super::instance::{Finished, Instance, Watch};
use super::keyvalue::Keys;
use super::lane::{Taken, priority};
use super::limiter::Limiter;
use super::link::{Settings, State};
use super::memory::Account;
use super::outcome;
use super::pool::{Call, Pool};
use super::secrets::Secrets;
use super::transcript::{self, Transcript};
use crate::invoker::{Invoker, Report, Seed};

/// The longest deadline, which stands for none.
const TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);

/// A handler whose calls compute for longer than this has them in the long lane from their beginning: there it costs a few
/// microseconds more, and elsewhere other handlers' calls would wait for as long.
const LONG: Duration = Duration::from_millis(1);

/// How many turns a call has before it is handed over to the long lane. In one of them its thread may have had no processor
/// for a while, and the call computed for much less.
const TURNS: u32 = 2;

/// A call that has ended in the long lane, and whether it computed for long there.
pub(super) type Ended = (Finished, bool);

/// A component that handles events, with its limits and its idle instances. Made by [`WasmHandler::load`].
pub struct WasmHandler {
    pub(super) name: Arc<str>,
    pub(super) engine: Engine,
    pub(super) pre: Arc<EntryPre>,
    pub(super) settings: Settings,
    pub(super) secrets: Arc<Secrets>,
    pub(super) client: Arc<Client>,
    pub(super) keys: Arc<Keys>,
    pub(super) budget: Budget,
    pub(super) isolation: Isolation,
    /// After how many events an instance is replaced.
    pub(super) reuse: u32,
    /// What keeps it to its own part of the engine's pool.
    pub(super) slots: Arc<Semaphore>,
    pub(super) account: Arc<Account>,
    pub(super) pool: Arc<Pool>,
    /// Whether its next call begins in the long lane.
    pub(super) habit: Habit,
    /// Whether it keeps no idle instances, because another version takes the events.
    pub(super) rests: AtomicBool,
    pub(super) inspection: Inspection,
    /// What it was given of the engine's pool, behind the instances that are in there.
    pub(super) room: Room,
}

impl Invoker for WasmHandler {
    async fn invoke(&self, event: Arc<Event>) -> Report {
        let reusable = event.attempt.is_first() && self.isolation == Isolation::Handler;
        self.run(event, None, reusable).await
    }
}

impl WasmHandler {
    /// Runs the handler in a fresh instance with the time and randomness of an earlier invocation. It is a rehearsal: no
    /// request is sent and no bucket used, so that it changes nothing outside.
    ///
    /// The guest sees the same as then, with two exceptions: the monotonic clock is real, and what an
    /// instance that was reused then had kept in its memory is not there.
    pub async fn replay(&self, event: Event, seed: Seed, clock_ms: u64) -> Report {
        self.run(Arc::new(event), Some((seed, clock_ms)), false).await
    }

    /// What the component is, imports and exports.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Drops all idle instances, and with them their memory. Harmless at any time.
    pub fn trim(&self) {
        self.pool.clear();
    }

    /// Keeps no idle instances while it `rests`.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
        if rests {
            self.trim();
        }
    }

    async fn run(&self, event: Arc<Event>, repeat: Option<(Seed, u64)>, reusable: bool) -> Report {
        let place = self.admit().await;
        let started = Instant::now();
        let deadline = started + self.budget.timeout.min(TIMEOUT_MAX);
        let is_rehearsal = repeat.is_some();
        let (seed, clock_ms) = repeat.unwrap_or_else(|| (rand::random(), unix_ms()));
        let mut instance = self.instance(reusable, deadline);
        instance.begin(&event, Chance::new(seed, clock_ms), deadline, place, is_rehearsal);
        let watch = instance.watch();
        let call = self.pool.call(instance.call(Arc::clone(&self.pre), event, self.budget.fuel, reusable));
        let (mut finished, is_judged) = self.carry_out(call, &watch, started, deadline).await;
        if let Some(spent) = finished.spent.take() {
            self.engine.lane().dispose(self.room.number(), spent);
        }
        let duration = started.elapsed();
        if !is_judged {
            self.habit.seems(duration > LONG);
        }

        let usage = Usage {
            duration,
            fuel: self.budget.fuel.saturating_sub(finished.fuel_left),
            memory_peak_bytes: finished.memory_bytes as u64,
        };
        let mut transcript = transcript::lock(&finished.transcript);
        transcript.end();
        let outcome = match finished.result {
            Some(Ok(Ok(outputs))) => outcome::of_outputs(outputs, &self.budget),
            Some(Ok(Err(failure))) => outcome::of_failure(failure, &transcript),
            Some(Err(error)) => outcome::of_error(&error, &self.budget, finished.is_instantiated, &transcript),
            None => outcome::waited_too_long(&self.budget, &transcript),
        };
        drop(transcript);
        if let (Outcome::Completed(_), Some(mut instance)) = (&outcome, finished.instance)
            && self.is_fit(&instance)
        {
            let place = instance.take_place();
            self.pool.put(instance);
            drop(place);
        }
        Report { outcome, usage, seed, clock_ms }
    }

    /// Waits for one of the handler's own places in the engine's pool.
    async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => Arc::clone(&self.slots).acquire_owned().await.ok(),
        }
    }

    /// Takes a call to its end: here as long as it does not compute for longer than its turns, else in the long lane. And
    /// whether it was judged for how long it computes; if not, its duration tells.
    async fn carry_out(&self, mut call: Call, watch: &Watch, started: Instant, deadline: Instant) -> (Finished, bool) {
        if self.habit.is_long() {
            let (finished, is_long) = Box::pin(self.carry_on(call, watch, deadline)).await;
            self.habit.was(is_long);
            return (finished, true);
        }
        // Most calls end at once, and need no timer.
        if let Some(finished) = poll_immediate(poll_fn(|context| call.poll(context))).await {
            self.pool.ended_call(call);
            return (finished, false);
        }
        // Boxed, since it is large and rare.
        (Box::pin(self.carry_through(call, watch, started, deadline)).await, true)
    }

    /// The same of a call that did not end at once.
    async fn carry_through(&self, mut call: Call, watch: &Watch, started: Instant, deadline: Instant) -> Finished {
        let mut turns_left = TURNS - u32::from(watch.take_turn());
        let mut computed = started.elapsed();
        let turns = poll_fn(|context| {
            while turns_left > 0 {
                let begun = Instant::now();
                let polled = call.poll(context);
                let took = begun.elapsed();
                computed += took;
                if polled.is_ready() || !watch.take_turn() {
                    return polled.map(Some);
                }
                // A turn that was over as soon as it began was waited through, in a host call.
                turns_left -= u32::from(took > LONG);
            }
            Poll::Ready(None)
        });
        let ended = timeout_at(deadline.into(), turns).await;
        self.habit.seems(computed > LONG);
        match ended {
            Ok(Some(finished)) => finished,
            Ok(None) => {
                let (finished, is_long) = self.carry_on(call, watch, deadline).await;
                if is_long {
                    self.habit.was(true);
                }
                finished
            }
            Err(_) => {
                watch.is_overdue();
                call.await
            }
        }
    }

    /// Takes a call to its end in the long lane, and tells whether it computed for long there. At its deadline it is taken
    /// back and ends here, since its next turn there may come late.
    async fn carry_on(&self, call: Call, watch: &Watch, deadline: Instant) -> Ended {
        let mut handed = self.engine.lane().hand_over(self.room.number(), Box::pin(timed(call)));
        if let Ok(ended) = timeout_at(deadline.into(), handed.ended()).await {
            return ended;
        }
        watch.is_overdue();
        let (finished, _) = match handed.take_back().await {
            Taken::Ended(ended) => ended,
            Taken::Back(call) => call.await,
        };
        // It may have had no turn at all, which is no reason to let the next one hold anybody up.
        (finished, true)
    }

    /// An idle instance, if one may and can be reused; else a new one.
    fn instance(&self, reusable: bool, deadline: Instant) -> Instance {
        if let Some(idle) = reusable.then(|| self.pool.take()).flatten() {
            return idle;
        }
        let memory = usize::try_from(self.budget.memory_bytes).unwrap_or(usize::MAX);
        let lease = self.account.lease();
        let state = State::new(
            Limiter::new(memory, Arc::clone(&lease)),
            Chance::new(Seed::default(), 0),
            Transcript::new(Arc::clone(&self.name), Arc::clone(&self.secrets)),
            Arc::clone(&self.settings),
            Arc::clone(&self.client),
            Arc::clone(&self.keys),
            deadline,
        );
        let engine = self.engine.wasmtime();
        Instance::new(engine, state, lease, &self.budget)
    }

    /// Whether an instance that has succeeded may take another event.
    fn is_fit(&self, instance: &Instance) -> bool {
        instance.calls() < self.reuse
            && !instance.state().limiter.is_nearly_full()
            && instance.state().is_idle()
            && !self.rests.load(Ordering::Relaxed)
    }
}

/// Tells whether a call computes for long. That is the time for which its thread had a processor: where others have it, a
/// thread of the lane is kept waiting, and every call would seem to take long.
async fn timed<T>(mut call: impl Future<Output = T> + Unpin) -> (T, bool) {
    let mut computed = Duration::ZERO;
    let finished = poll_fn(|context| {
        let begun = priority::processor_time();
        let polled = call.poll_unpin(context);
        computed += priority::processor_time().saturating_sub(begun);
        polled
    });
    let finished = finished.await;
    (finished, computed > LONG)
}

fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since_epoch.unwrap_or_default().as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[tokio::test]
    async fn a_call_takes_long_that_computes_and_not_one_whose_thread_waits() {
        let waits = Box::pin(async { sleep(LONG * 10) });
        assert_eq!(timed(waits).await, ((), false));
        let computes = Box::pin(async {
            let begun = priority::processor_time();
            while priority::processor_time().saturating_sub(begun) <= LONG {}
        });
        assert_eq!(timed(computes).await, ((), true));
    }
}
