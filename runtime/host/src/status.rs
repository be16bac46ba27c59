//! What an instance tells about itself: whether it is ready, and what became of its handlers' deliveries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use tidemill_policy::decide::rfc3339;
use tidemill_policy::history::millis;
use tokio::time::Instant;

use crate::broker::nats::Nats;
use crate::broker::nats::connect::Link;
use crate::broker::nats::consume::Spec;
use crate::broker::nats::keyvalue::Buckets;
use crate::broker::nats::owner::Owner;
use crate::broker::nats::progress::Progress;
use crate::clock::Clock;
use crate::fate::{Counters, Counts, Fate};
use crate::gate::{Gate, GateReport};
use crate::in_flight::{Budget, BytesReport};
use crate::instance::Generation;
use crate::reload::{Reloads, ReloadsReport};
use crate::troubles::{Trouble, Troubles};
use crate::version::{Part, Tally, Versions};

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
    /// What it tells about its generations, and where it is asked for another.
    pub reloads: Reloads,
    handlers: RwLock<BTreeMap<String, Arc<HandlerStatus>>>,
    nats: Mutex<Option<Arc<Link>>>,
    budget: Mutex<Option<Arc<Budget>>>,
    /// The buckets that handlers use, to be told of each connection.
    buckets: OnceLock<Arc<Buckets>>,
    /// Whether all consumers are set up.
    is_consuming: AtomicBool,
}

/// What is told about one handler.
#[derive(Debug, Default)]
pub struct HandlerStatus {
    running: Mutex<Running>,
    counters: Counters,
    in_flight: AtomicU64,
    gate: Mutex<Option<Arc<Gate>>>,
    /// Whether one instance at a time is the active one.
    has_active: AtomicBool,
    /// Whether this instance is it.
    active: AtomicBool,
    /// The stream that it reads, and what of it.
    reads: Mutex<Option<Arc<Owner>>>,
    /// How far it has come here, where each instance reads for itself.
    progress: Mutex<Arc<Progress>>,
}

/// What runs.
#[derive(Debug, Default)]
struct Running {
    component: String,
    trial: Option<OnTrial>,
}

/// What is on trial.
#[derive(Debug)]
struct OnTrial {
    component: String,
    share: f64,
    since_ms: u64,
    tally: Arc<Tally>,
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
pub struct InFlight(Arc<HandlerStatus>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
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
    /// Which generation of manifest and components runs.
    #[serde(flatten)]
    pub reloads: ReloadsReport,
    /// The bytes of messages in flight; nothing before the consumers are set up.
    pub in_flight_bytes: Option<BytesReport>,
}

/// One handler in a [`StatusReport`].
#[derive(Debug, Serialize)]
pub struct HandlerReport {
    /// The stream that it reads; nothing before that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The subjects that it handles; nothing before its stream is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<String>>,
    /// The digest of its component.
    pub component: String,
    /// The new version that is on trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialReport>,
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

/// A version on trial in a [`HandlerReport`].
#[derive(Debug, Serialize)]
pub struct TrialReport {
    /// The digest of its component.
    pub component: String,
    /// The share of events that it gets.
    pub share: f64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How many attempts it has made.
    pub attempts: u64,
    /// How many of them have failed.
    pub failures: u64,
}

impl Status {
    /// The status of an instance that has not started yet.
    pub fn new<I>(name: String, generation: &Generation<I>) -> Status {
        let status = Status {
            name,
            started: (Clock::System.now_ms(), Instant::now()),
            troubles: Arc::default(),
            reloads: Reloads::default(),
            handlers: RwLock::default(),
            nats: Mutex::default(),
            budget: Mutex::default(),
            buckets: OnceLock::new(),
            is_consuming: AtomicBool::new(false),
        };
        status.is_to_run(generation);
        status
    }

    /// Notes what is to run.
    pub fn is_to_run<I>(&self, generation: &Generation<I>) {
        for name in self.handlers().iter().filter(|name| !generation.handlers.contains_key(*name)) {
            self.forget(name);
        }
        for (name, versions) in &generation.handlers {
            self.handler(name).runs(versions);
        }
    }

    /// Notes a new connection, on which the consumers are yet to be set up.
    pub fn connected(&self, link: &Arc<Link>) {
        self.is_consuming.store(false, Ordering::Relaxed);
        *self.link() = Some(Arc::clone(link));
    }

    /// Has the handlers' buckets told of each connection.
    pub fn provides(&self, buckets: Arc<Buckets>) {
        // There is one engine in a process, so nothing else can have been set before.
        let _ = self.buckets.set(buckets);
    }

    /// Tells the handlers' buckets of a connection.
    pub fn reaches(&self, nats: &Nats) {
        if let Some(buckets) = self.buckets.get() {
            buckets.connect_to(nats);
        }
    }

    /// Notes that all consumers are set up.
    pub fn consuming(&self) {
        self.is_consuming.store(true, Ordering::Relaxed);
    }

    /// What is told about a handler, from now on if it is new.
    pub fn handler(&self, name: &str) -> Arc<HandlerStatus> {
        if let Some(status) = self.read().get(name) {
            return Arc::clone(status);
        }
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(handlers.entry(name.to_owned()).or_default())
    }

    /// How far a handler has come here, where each instance reads for itself.
    pub fn progress_of(&self, name: &str) -> Arc<Progress> {
        self.read().get(name).map_or_else(Arc::default, |handler| Arc::clone(&lock(&handler.progress)))
    }

    /// Tells no more about a handler.
    pub fn forget(&self, name: &str) {
        if let Some(handler) = self.handlers.write().unwrap_or_else(PoisonError::into_inner).remove(name) {
            lock(&handler.progress).forget();
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<HandlerStatus>>> {
        self.handlers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        lock(&self.nats)
    }

    /// Notes what keeps the account of the bytes in flight.
    pub fn account(&self, budget: &Arc<Budget>) {
        *lock(&self.budget) = Some(Arc::clone(budget));
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
        } else if !self.is_consuming.load(Ordering::Relaxed) {
            reasons.push("starting: streams and consumers are being set up".to_owned());
        }
        reasons
    }

    /// The names of the handlers.
    pub fn handlers(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// The status now.
    pub fn report(&self) -> StatusReport {
        StatusReport {
            instance: self.report_of_instance(),
            handlers: self.read().iter().map(|(name, status)| (name.clone(), status.report())).collect(),
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
            reloads: self.reloads.report(),
            in_flight_bytes: lock(&self.budget).as_ref().map(|budget| budget.report()),
        }
    }

    /// The part of the status that is about one handler.
    pub fn report_of(&self, handler: &str) -> Option<HandlerReport> {
        self.read().get(handler).map(|status| status.report())
    }
}

impl HandlerStatus {
    /// Notes which versions run.
    pub fn runs<I>(&self, versions: &Versions<I>) {
        let of_trial = |part: &Part<I>, share| OnTrial {
            component: part.component.clone(),
            share,
            since_ms: Clock::System.now_ms(),
            tally: Arc::clone(&part.tally),
        };
        let mut running = lock(&self.running);
        let trial = versions.trial.as_ref().map(|trial| of_trial(&trial.part, trial.share));
        *running = Running { component: versions.steady.component.clone(), trial };
        self.has_active.store(versions.steady.handler.window().is_some(), Ordering::Relaxed);
    }

    /// Notes which stream it reads, and what of it, and how far it comes.
    pub fn reads(&self, spec: &Spec) {
        *lock(&self.reads) = Some(Arc::clone(&spec.owner));
        *lock(&self.progress) = Arc::clone(&spec.progress);
    }

    /// Notes the gate of the handler.
    pub fn watch(&self, gate: &Arc<Gate>) {
        *lock(&self.gate) = Some(Arc::clone(gate));
    }

    /// Counts a delivery as in flight until the result is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Counts what became of a delivery.
    pub fn record(&self, fate: &Fate) {
        self.counters.record(fate);
    }

    /// Notes that this instance is the active one, until the result is dropped.
    pub fn activate(&self) -> Active<'_> {
        self.active.store(true, Ordering::Relaxed);
        Active(&self.active)
    }

    fn report(&self) -> HandlerReport {
        let running = lock(&self.running);
        let has_active = self.has_active.load(Ordering::Relaxed);
        let reads = lock(&self.reads).clone();
        HandlerReport {
            stream: reads.as_ref().map(|reads| reads.stream.clone()),
            subjects: reads.map(|reads| reads.subjects.clone()),
            component: running.component.clone(),
            trial: running.trial.as_ref().map(OnTrial::report),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            active: has_active.then(|| self.active.load(Ordering::Relaxed)),
            gate: lock(&self.gate).as_ref().map(|gate| gate.report()),
            counts: self.counters.counts(),
        }
    }
}

impl OnTrial {
    fn report(&self) -> TrialReport {
        let counts = self.tally.now();
        TrialReport {
            component: self.component.clone(),
            share: self.share,
            since_ms: self.since_ms,
            attempts: counts.attempts,
            failures: counts.failures,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
