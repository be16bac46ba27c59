//! One loaded component as an [`Invoker`]: budget, instances, and the report of each invocation.
//!
//! A handler is immutable once loaded; a changed component or limit is a new handler.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidemill_policy::budget::{Budget, Usage};
use tidemill_policy::event::Event;
use tidemill_policy::manifest::Isolation;
use tidemill_policy::outcome::Outcome;

use super::bindings::PluginPre;
use super::chance::Chance;
use super::engine::{Engine, TICK};
use super::inspect::Inspection;
use super::instance::Instance;
use super::limiter::Limiter;
use super::link::{Settings, State};
use super::outcome;
use super::pool::Pool;
use super::transcript::Transcript;
use crate::invoker::{Invoker, Report, Seed};

/// The longest deadline, which stands for none.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A component that handles events, with its limits and its idle instances. Made by [`WasmHandler::load`].
pub struct WasmHandler {
    pub(super) name: Arc<str>,
    pub(super) engine: Engine,
    pub(super) pre: PluginPre<State>,
    pub(super) settings: Settings,
    pub(super) budget: Budget,
    pub(super) isolation: Isolation,
    /// After how many events an instance is replaced.
    pub(super) reuse: u32,
    pub(super) pool: Pool,
    pub(super) inspection: Inspection,
}

impl Invoker for WasmHandler {
    async fn invoke(&self, event: Event) -> Report {
        let reusable = event.attempt.is_first() && self.isolation == Isolation::Handler;
        self.run(&event, None, reusable).await
    }
}

impl WasmHandler {
    /// Runs the handler in a fresh instance with the time and randomness of an earlier invocation.
    ///
    /// The guest sees the same as then, with two exceptions: the monotonic clock is real, and what an
    /// instance that was reused then had kept in its memory is not there.
    pub async fn replay(&self, event: Event, seed: Seed, clock_ms: u64) -> Report {
        self.run(&event, Some((seed, clock_ms)), false).await
    }

    /// What the component is, imports and exports.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Drops all idle instances, and with them their memory. Harmless at any time.
    pub fn trim(&self) {
        self.pool.clear();
    }

    async fn run(&self, event: &Event, repeat: Option<(Seed, u64)>, reusable: bool) -> Report {
        // Declared before the instance, so that the place is given back after the instance's.
        let _place = self.engine.admit().await;
        let started = Instant::now();
        let deadline = started + self.budget.timeout.min(TIMEOUT_MAX);
        let (seed, clock_ms) = repeat.unwrap_or_else(|| (rand::random(), unix_ms()));
        let mut instance = self.instance(reusable, deadline);
        instance.begin(event, Chance::new(seed, clock_ms), deadline);

        let call = instance.call(&self.pre, event, self.budget.fuel);
        let result = tokio::time::timeout_at((deadline + TICK).into(), call).await;

        let usage = Usage {
            duration: started.elapsed(),
            fuel: self.budget.fuel.saturating_sub(instance.fuel_left()),
            memory_peak_bytes: instance.state().limiter.used() as u64,
        };
        let outcome = instance.state().transcript(|transcript| {
            transcript.end();
            match result {
                Ok(Ok(Ok(outputs))) => outcome::of_outputs(outputs, &self.budget),
                Ok(Ok(Err(failure))) => outcome::of_failure(failure),
                Ok(Err(error)) => {
                    let instantiated = instance.is_instantiated();
                    outcome::of_error(&error, &self.budget, instantiated, transcript)
                }
                Err(_) => outcome::waited_too_long(&self.budget, transcript),
            }
        });
        if reusable && matches!(outcome, Outcome::Completed(_)) && self.is_fit(&instance) {
            self.pool.put(instance);
        }
        Report { outcome, usage, seed, clock_ms }
    }

    /// An idle instance, if one may and can be reused; else a new one.
    fn instance(&self, reusable: bool, deadline: Instant) -> Box<Instance> {
        if let Some(idle) = reusable.then(|| self.pool.take()).flatten() {
            return idle;
        }
        let memory = usize::try_from(self.budget.memory_bytes).unwrap_or(usize::MAX);
        let state = State::new(
            Limiter::new(memory),
            Chance::new(Seed::default(), 0),
            Transcript::new(Arc::clone(&self.name)),
            Arc::clone(&self.settings),
            deadline,
        );
        let engine = self.engine.wasmtime();
        Box::new(Instance::new(engine, state, &self.budget))
    }

    /// Whether an instance that has succeeded may take another event.
    fn is_fit(&self, instance: &Instance) -> bool {
        instance.calls() < self.reuse && !instance.state().limiter.is_nearly_full()
    }
}

fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since_epoch.unwrap_or_default().as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}
