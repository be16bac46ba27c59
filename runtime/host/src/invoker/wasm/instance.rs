//! One instance of a component, with its memory: runs one event at a time.
//!
//! An instance does not know whether it will be used again; that is for the handler to decide. Nor does it know on
//! which thread it runs: its call may go on on another one after each turn.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;

use tidemill_policy::budget::Budget;
use tidemill_policy::event::Event;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

use super::bindings::tidemill::handler::types::{Failure, Output};
use super::chance::Chance;
use super::entry::{Entry, EntryPre};
use super::link::State;
use super::memory::Lease;
use super::messaging::Held;
use super::outcome::{self, DeadlinePassed};
use super::transcript::Transcript;
use crate::step_back::step_back;

/// How many ticks a turn has. The first of them may be nearly over when the turn begins, so one would be none.
const TICKS_PER_TURN: u64 = 2;

/// A store, and in it the component's instance as soon as it has been called.
pub(super) struct Instance {
    store: Store<State>,
    entry: Option<Entry>,
    calls: u32,
    /// Behind the store, so that it is given back after its memory.
    _lease: Arc<Lease>,
    /// Behind the store, so that it is given back after its place in the engine's pool.
    place: Option<OwnedSemaphorePermit>,
}

/// A call that has come to its end.
pub(super) struct Finished {
    /// The instance, where it may be used again.
    pub(super) instance: Option<Instance>,
    /// The instance, where its time was over: then it ended on a thread that others need.
    pub(super) spent: Option<Instance>,
    /// What the handler returned; nothing if it was still waiting in a host call when its time was over.
    pub(super) result: Option<wasmtime::Result<Result<Vec<Output>, Failure>>>,
    /// Whether the component was instantiated, rather than having failed at it.
    pub(super) is_instantiated: bool,
    pub(super) fuel_left: u64,
    pub(super) memory_bytes: usize,
    pub(super) transcript: Arc<Mutex<Transcript>>,
}

/// What a call and whoever started it tell each other.
#[derive(Debug, Default)]
pub(super) struct Watch {
    has_had_a_turn: AtomicBool,
    is_overdue: AtomicBool,
}

impl Watch {
    /// Whether the guest was still computing when a turn was over, and so waits for another one. Told once for each turn.
    pub(super) fn take_turn(&self) -> bool {
        self.has_had_a_turn.swap(false, Ordering::Relaxed)
    }

    /// Says that the time is over. When the call is polled next, it ends.
    pub(super) fn is_overdue(&self) {
        self.is_overdue.store(true, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.has_had_a_turn.store(false, Ordering::Relaxed);
        self.is_overdue.store(false, Ordering::Relaxed);
    }
}

impl Instance {
    /// Makes a store. The component is instantiated by the first call, within that call's budget.
    pub(super) fn new(engine: &wasmtime::Engine, mut state: State, lease: Arc<Lease>, budget: &Budget) -> Instance {
        state.held = Held::new(budget);
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(on_tick);
        store.set_hostcall_fuel(outcome::transfer_bytes_max(budget));
        Instance { store, entry: None, calls: 0, _lease: lease, place: None }
    }

    /// Prepares for the next call: this event, this time and chance, this deadline, this place among those that run, and
    /// whether it is a rehearsal.
    pub(super) fn begin(
        &mut self,
        event: &Event,
        chance: Chance,
        deadline: Instant,
        place: Option<OwnedSemaphorePermit>,
        is_rehearsal: bool,
    ) {
        self.place = place;
        let state = self.store.data_mut();
        state.chance = chance;
        state.deadline = deadline;
        state.is_between_turns = false;
        state.is_rehearsal = is_rehearsal;
        state.operations = 0;
        state.watch.reset();
        state.transcript(|transcript| transcript.begin(event));
    }

    /// Takes the place among those that run, to be given up when the instance is where it may be used again.
    pub(super) fn take_place(&mut self) -> Option<OwnedSemaphorePermit> {
        self.place.take()
    }

    /// What the next call, or the one that runs, can be watched by.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.store.data().watch)
    }

    /// Calls the handler. Unless it succeeds and may be `reused`, or its time is over, the instance is dropped here, where
    /// it ran, since giving back much memory takes time.
    pub(super) async fn call(mut self, pre: Arc<EntryPre>, event: Arc<Event>, fuel: u64, reused: bool) -> Finished {
        let watch = self.watch();
        let result = {
            let mut call = pin!(self.enter(&pre, &event, fuel));
            poll_fn(|context| match call.as_mut().poll(context) {
                Poll::Pending if watch.is_overdue.load(Ordering::Relaxed) => Poll::Ready(None),
                polled => polled.map(Some),
            })
            .await
        };
        let has_succeeded = matches!(result, Some(Ok(Ok(_))));
        let mut finished = Finished {
            result,
            is_instantiated: self.entry.is_some(),
            fuel_left: self.store.get_fuel().unwrap_or_default(),
            memory_bytes: self.state().limiter.used(),
            transcript: Arc::clone(&self.state().transcript),
            instance: None,
            spent: None,
        };
        if reused && has_succeeded {
            finished.instance = Some(self);
        } else if watch.is_overdue.load(Ordering::Relaxed) {
            finished.spent = Some(self);
        }
        finished
    }

    async fn enter(
        &mut self,
        pre: &EntryPre,
        event: &Event,
        fuel: u64,
    ) -> wasmtime::Result<Result<Vec<Output>, Failure>> {
        self.store.set_fuel(fuel)?;
        self.store.set_epoch_deadline(TICKS_PER_TURN);
        self.calls += 1;
        if self.entry.is_none() {
            // Boxed, since it is larger than the call.
            self.entry = Some(Box::pin(pre.instantiate(&mut self.store)).await?);
        }
        let Some(entry) = &self.entry else {
            wasmtime::bail!("the component has no instance");
        };
        entry.call(&mut self.store, event).await
    }

    /// How often it was called.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    pub(super) fn state(&self) -> &State {
        self.store.data()
    }
}

/// Called while the guest is computing, when its turn is over, and again when the next one begins: ends the invocation
/// at its deadline, also if it was reached while the guest waited for its turn.
fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    if Instant::now() >= state.deadline {
        return Err(DeadlinePassed.into());
    }
    if state.is_between_turns {
        state.is_between_turns = false;
        return Ok(UpdateDeadline::Continue(TICKS_PER_TURN));
    }
    state.is_between_turns = true;
    state.watch.has_had_a_turn.store(true, Ordering::Relaxed);
    // No ticks: this is called again as soon as the guest goes on.
    Ok(UpdateDeadline::YieldCustom(0, Box::pin(step_back())))
}
