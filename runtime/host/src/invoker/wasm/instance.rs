//! One instance of a component, with its memory: runs one event at a time.
//!
//! An instance does not know whether it will be used again; that is for the handler to decide.

use std::time::Instant;

use tidemill_policy::budget::Budget;
use tidemill_policy::event::Event;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

use super::bindings::tidemill::handler::types::{self, Failure, Output};
use super::bindings::{Plugin, PluginPre};
use super::chance::Chance;
use super::link::State;
use super::outcome::{self, DeadlinePassed};

/// A store, and in it the component's instance as soon as it has been called.
pub(super) struct Instance {
    store: Store<State>,
    plugin: Option<Plugin>,
    calls: u32,
}

impl Instance {
    /// Makes a store. The component is instantiated by the first call, within that call's budget.
    pub(super) fn new(engine: &wasmtime::Engine, state: State, budget: &Budget) -> Instance {
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(on_tick);
        store.set_hostcall_fuel(outcome::transfer_bytes_max(budget));
        Instance { store, plugin: None, calls: 0 }
    }

    /// Prepares for the next call: this event, this time and chance, and this deadline.
    pub(super) fn begin(&mut self, event: &Event, chance: Chance, deadline: Instant) {
        let state = self.store.data_mut();
        state.chance = chance;
        state.deadline = deadline;
        state.transcript(|transcript| transcript.begin(event));
    }

    /// Calls the handler. After an error or when dropped midway the instance is dead.
    pub(super) async fn call(
        &mut self,
        pre: &PluginPre<State>,
        event: &Event,
        fuel: u64,
    ) -> wasmtime::Result<Result<Vec<Output>, Failure>> {
        self.store.set_fuel(fuel)?;
        self.store.set_epoch_deadline(1);
        self.calls += 1;
        if self.plugin.is_none() {
            self.plugin = Some(pre.instantiate_async(&mut self.store).await?);
        }
        let Some(plugin) = &self.plugin else {
            wasmtime::bail!("the component has no instance");
        };
        let handler = plugin.tidemill_handler_handler();
        handler.call_handle(&mut self.store, guest_event(event)).await
    }

    /// Whether the component was instantiated, rather than having failed at it.
    pub(super) fn is_instantiated(&self) -> bool {
        self.plugin.is_some()
    }

    /// How often it was called.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    /// What is left of the last call's fuel.
    pub(super) fn fuel_left(&self) -> u64 {
        self.store.get_fuel().unwrap_or_default()
    }

    pub(super) fn state(&self) -> &State {
        self.store.data()
    }
}

/// Called while the guest is running, when a tick has passed since the call or the last tick: ends the
/// invocation or lets other tasks run.
fn on_tick(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    if Instant::now() >= store.data().deadline {
        return Err(DeadlinePassed.into());
    }
    let others = tokio::task::yield_now();
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(others)))
}

/// The event as the guest gets it: borrowed, so that each byte is copied once, into the guest's memory.
fn guest_event(event: &Event) -> types::Event<'_> {
    types::Event {
        id: &event.id,
        subject: &event.subject,
        kind: event.kind.as_deref(),
        source: event.source.as_deref(),
        time_ms: event.time_ms,
        content_type: event.content_type.as_deref(),
        correlation_id: &event.correlation_id,
        causation_id: event.causation_id.as_deref(),
        attempt: event.attempt.get(),
        max_attempts: event.max_attempts,
        headers: &event.headers,
        payload: &event.payload,
    }
}
