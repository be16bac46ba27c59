//! What an instance tells about itself: whether it is ready, and what became of its handlers' deliveries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tidemill_policy::decide::rfc3339;
use tidemill_policy::history::millis;
use tokio::time::Instant;

use crate::broker::nats::connect::Link;
use crate::clock::Clock;
use crate::fate::{Counters, Counts, Fate};
use crate::gate::{Gate, GateReport};
use crate::in_flight::{Budget, BytesReport};
use crate::instance::Part;
use crate::troubles::{Trouble, Troubles};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What an instance tells about itself.
#[derive(Debug)]
pub struct Status {
    /// The instance's name.
    pub name: String,
    /// When it was started, by the time of day and by tokio's clock.
    started: (u64, Instant),
    /// What is wrong.
    pub troubles: Arc<Troubles>,
    handlers: BTreeMap<String, HandlerStatus>,
    nats: Mutex<Option<Arc<Link>>>,
    budget: Mutex<Option<Arc<Budget>>>,
    /// How many consumers are yet to be set up.
    missing: AtomicU64,
}

#[derive(Debug, Default)]
struct HandlerStatus {
    component: String,
    counters: Counters,
    in_flight: AtomicU64,
    gate: Mutex<Option<Arc<Gate>>>,
    /// Whether this instance is the active one; nothing where there is none.
    active: Option<AtomicBool>,
}

/// The time in which this instance is the active one of a handler; ends when it is dropped.
#[derive(Debug)]
pub struct Active<'a>(&'a AtomicBool);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One delivery in flight.
#[derive(Debug)]
pub struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// [`Status`] at one moment, as the API gives it.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceReport,
    /// The handlers by name.
    pub handlers: BTreeMap<String, HandlerReport>,
}

/// What is true of the instance as a whole, in a [`StatusReport`].
#[derive(Debug, Serialize)]
pub struct InstanceReport {
    /// The instance's name.
    pub instance: String,
    /// The program's version.
    pub version: &'static str,
    /// When the process started, as RFC 3339.
    pub started: String,
    /// For how long it runs, in milliseconds.
    pub uptime_ms: u64,
    /// Whether events are being consumed.
    pub ready: bool,
    /// Whether the connection to NATS is up.
    pub connected: bool,
    /// What is wrong.
    pub troubles: Vec<Trouble>,
    /// The bytes of messages in flight; nothing before the consumers are set up.
    pub in_flight_bytes: Option<BytesReport>,
}

/// One handler in a [`StatusReport`].
#[derive(Debug, Serialize)]
pub struct HandlerReport {
    /// The digest of its component.
    pub component: String,
    /// Events queued or running here.
    pub in_flight: u64,
    /// Whether this instance is the active one, of a handler that has one: `order.form = "queues"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// What keeps its attempts back; nothing before its consumers are set up.
    pub gate: Option<GateReport>,
    /// What became of its deliveries.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Status {
    /// The status of an instance that has not started yet.
    pub fn new<I>(name: String, parts: &[Part<I>]) -> Status {
        let handlers = parts.iter().map(|part| {
            let active = part.handler.window().map(|_| AtomicBool::new(false));
            let status = HandlerStatus { component: part.component.clone(), active, ..HandlerStatus::default() };
            (part.handler.name.clone(), status)
        });
        Status {
            name,
            started: (Clock::System.now_ms(), Instant::now()),
            troubles: Arc::default(),
            handlers: handlers.collect(),
            nats: Mutex::default(),
            budget: Mutex::default(),
            missing: AtomicU64::new(parts.len() as u64),
        }
    }

    /// Notes a new connection, on which every handler's consumers are yet to be set up.
    pub fn connected(&self, link: &Arc<Link>) {
        self.missing.store(self.handlers.len() as u64, Ordering::Relaxed);
        *self.link() = Some(Arc::clone(link));
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        lock(&self.nats)
    }

    /// Notes that one more handler's consumers are set up.
    pub fn consuming(&self) {
        self.missing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes the gate of a handler.
    pub fn watch(&self, handler: &str, gate: &Arc<Gate>) {
        if let Some(status) = self.handlers.get(handler) {
            *lock(&status.gate) = Some(Arc::clone(gate));
        }
    }

    /// Notes what keeps the account of the bytes in flight.
    pub fn account(&self, budget: &Arc<Budget>) {
        *lock(&self.budget) = Some(Arc::clone(budget));
    }

    /// Counts a delivery as in flight until the result is dropped.
    pub fn begin(&self, handler: &str) -> Option<InFlight<'_>> {
        let count = &self.handlers.get(handler)?.in_flight;
        count.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(count))
    }

    /// Counts what became of a delivery.
    pub fn record(&self, handler: &str, fate: &Fate) {
        if let Some(status) = self.handlers.get(handler) {
            status.counters.record(fate);
        }
    }

    /// Whether the connection to NATS is up.
    pub fn is_connected(&self) -> bool {
        self.link().as_ref().is_some_and(|link| link.is_up())
    }

    /// Whether events are being consumed, and their results stored.
    pub fn is_ready(&self) -> bool {
        self.unready().is_empty()
    }

    /// Why no events are being consumed, or no results stored: nothing where all is well.
    pub fn unready(&self) -> Vec<String> {
        let blocking = self.troubles.now().into_iter().filter(|trouble| trouble.blocks_readiness);
        let mut reasons: Vec<_> = blocking.map(|trouble| format!("{}: {}", trouble.what, trouble.why)).collect();
        if reasons.is_empty() && !self.is_connected() {
            reasons.push("not connected to NATS".to_owned());
        } else if self.missing.load(Ordering::Relaxed) > 0 {
            reasons.push("starting: streams and consumers are being set up".to_owned());
        }
        reasons
    }

    /// Notes that this instance is the active one of a handler, until the result is dropped.
    pub fn activate(&self, handler: &str) -> Option<Active<'_>> {
        let active = self.handlers.get(handler)?.active.as_ref()?;
        active.store(true, Ordering::Relaxed);
        Some(Active(active))
    }

    /// The names of the handlers.
    pub fn handlers(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// The status now.
    pub fn report(&self) -> StatusReport {
        StatusReport {
            instance: self.report_of_instance(),
            handlers: self.handlers.iter().map(|(name, status)| (name.clone(), status.report())).collect(),
        }
    }

    /// The part of the status that is about the instance as a whole.
    pub fn report_of_instance(&self) -> InstanceReport {
        let (started_ms, since) = self.started;
        InstanceReport {
            instance: self.name.clone(),
            version: VERSION,
            started: rfc3339(started_ms),
            uptime_ms: millis(since.elapsed()),
            ready: self.is_ready(),
            connected: self.is_connected(),
            troubles: self.troubles.now(),
            in_flight_bytes: lock(&self.budget).as_ref().map(|budget| budget.report()),
        }
    }

    /// The part of the status that is about one handler.
    pub fn report_of(&self, handler: &str) -> Option<HandlerReport> {
        self.handlers.get(handler).map(HandlerStatus::report)
    }
}

impl HandlerStatus {
    fn report(&self) -> HandlerReport {
        HandlerReport {
            component: self.component.clone(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            active: self.active.as_ref().map(|active| active.load(Ordering::Relaxed)),
            gate: lock(&self.gate).as_ref().map(|gate| gate.report()),
            counts: self.counters.counts(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
