//! One running tidemill: its handlers' components loaded, their consumers pulling, and their events in
//! flight, from the start to the drained end, through any number of generations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use thiserror::Error;
use tidemill_policy::in_flight;
use tidemill_policy::manifest::Manifest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::nats::Nats;
use crate::broker::nats::connect::{ConnectError, Target};
use crate::broker::nats::consume::Spec;
use crate::broker::nats::durable::ConsumerError;
use crate::broker::nats::preflight::Conflicts;
use crate::broker::nats::streams::StreamError;
use crate::in_flight::Budget;
use crate::invoker::Invoker;
use crate::pipeline::Stop;
use crate::service;
use crate::status::Status;
use crate::troubles::Effect;
use crate::version::{Part, Versions};

mod active;
mod apply;
mod neighbours;
mod specs;
mod start;
mod unit;
mod vigil;

pub use apply::{Applied, Refused};
pub use specs::input_spec;
use unit::Unit;

/// How long to wait before a start that failed is tried again.
const START_DELAY: Duration = Duration::from_secs(5);
/// What is in trouble while an instance cannot start.
const START: &str = "start";

/// One loaded version of the manifest and of all components.
#[derive(Debug, Clone)]
pub struct Generation<I> {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// What runs each of its handlers, by name.
    pub handlers: BTreeMap<String, Versions<I>>,
}

/// A generation that is to take the place of the one that runs.
#[derive(Debug)]
pub struct Order<I> {
    /// The generation.
    pub generation: Generation<I>,
    /// Where it is told what came of it. Dropped without an answer when the instance ends before.
    pub answer: oneshot::Sender<Result<Applied, Refused>>,
}

/// Why an instance cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// No connection can be tried.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The manifest and the server contradict each other.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// The streams are not as the manifest needs them.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A consumer cannot be had.
    #[error("handler.{handler}: {source}")]
    Consumer {
        /// The handler.
        handler: String,
        /// Why.
        source: ConsumerError,
    },
}

impl<I> Generation<I> {
    /// A generation of which nothing is on trial.
    pub fn new(manifest: Manifest, parts: impl IntoIterator<Item = Part<I>>) -> Generation<I> {
        let named = |part: Part<I>| (part.handler.name.clone(), Versions::only(part));
        Generation { manifest: Arc::new(manifest), handlers: parts.into_iter().map(named).collect() }
    }

    /// Whether it is the same manifest with the very same versions.
    pub fn is_same(&self, other: &Generation<I>) -> bool {
        let same = |(name, versions): (&String, &Versions<I>)| {
            other.handlers.get(name).is_some_and(|others| versions.is_same(others))
        };
        self.manifest == other.manifest && self.handlers.iter().all(same)
    }
}

/// Runs until `stop` is cancelled, then drains: no more is pulled, what has not started is handed back, and
/// what is running has `runtime.drain` to end. Meanwhile each of the `orders` is carried out, or refused as a whole.
///
/// # Errors
/// What keeps the instance from starting, and waiting cannot cure.
pub async fn run<I: Invoker + Clone>(
    target: Target,
    generation: Generation<I>,
    orders: mpsc::Receiver<Order<I>>,
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let mut instance = Instance { target, generation, orders, status, stop };
    let mut served = false;
    while !instance.stop.is_cancelled() {
        // Boxed, since it is large.
        match Box::pin(instance.serve(&mut served)).await {
            Ok(()) => {}
            // It worked before, so somebody has changed the server, and may well put it right.
            Err(error) if served => {
                instance.status.troubles.begin(START, Effect::Intake, &error.to_string());
                instance.pause().await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Instance<I> {
    target: Target,
    generation: Generation<I>,
    orders: mpsc::Receiver<Order<I>>,
    status: Arc<Status>,
    stop: CancellationToken,
}

/// What a connection runs.
struct Site<I> {
    nats: Arc<Nats>,
    status: Arc<Status>,
    prefix: Arc<str>,
    instance: Arc<str>,
    stop: Stop,
    budget: Arc<Budget>,
    units: BTreeMap<String, Unit<I>>,
    /// Registers the instance as a service until it is dropped.
    service: service::Registered,
    /// The manifest that runs.
    manifest: watch::Sender<Arc<Manifest>>,
}

impl<I: Invoker + Clone> Instance<I> {
    /// Waits before another start. What is ordered meanwhile is what will be started.
    async fn pause(&mut self) {
        let delay = sleep(START_DELAY);
        tokio::pin!(delay);
        loop {
            tokio::select! {
                () = &mut delay => return,
                () = self.stop.cancelled() => return,
                Some(Order { generation, answer }) = self.orders.recv() => {
                    self.status.is_to_run(&generation);
                    self.generation = generation;
                    // Nobody need wait for it.
                    let _ = answer.send(Ok(Applied::default()));
                }
            }
        }
    }

    /// Runs on one connection, until `stop` is cancelled or the client library has given up for good. Events that
    /// were in flight then are delivered again.
    async fn serve(&mut self, served: &mut bool) -> Result<(), StartError> {
        let stop = self.stop.clone();
        let started =
            start_and_refuse(start(&self.target, &self.generation, &self.status, &self.stop), &mut self.orders);
        let Some(site) = stop.run_until_cancelled(started).await else { return Ok(()) };
        let mut site = site?;
        *served = true;
        self.status.troubles.end(START);
        self.status.consuming();
        tracing::info!(handlers = site.units.len(), instance = %self.status.name, "ready");
        loop {
            tokio::select! {
                biased;
                () = site.stop.requested.cancelled() => break,
                () = site.nats.link.lost.cancelled() => {
                    tracing::error!("the NATS client has failed; connecting anew, events in flight are delivered again");
                    // Nothing that is in flight could be settled any more.
                    site.stop.requested.cancel();
                    site.stop.overdue.cancel();
                    break;
                }
                Some(Order { generation, answer }) = self.orders.recv() => {
                    let (requested, lost) = (site.stop.requested.clone(), site.nats.link.lost.clone());
                    let applied = tokio::select! {
                        biased;
                        () = requested.cancelled() => continue,
                        () = lost.cancelled() => continue,
                        applied = site.apply(&mut self.generation, generation) => applied,
                    };
                    self.status.troubles.end(START);
                    // Nobody need wait for it.
                    let _ = answer.send(applied);
                }
            }
        }
        site.drain(self.generation.manifest.runtime.drain).await;
        Ok(())
    }
}

/// Starts, and refuses what is ordered meanwhile: it cannot be compared with a server that is not there.
async fn start_and_refuse<I>(
    start: impl Future<Output = Result<Site<I>, StartError>>,
    orders: &mut mpsc::Receiver<Order<I>>,
) -> Result<Site<I>, StartError> {
    tokio::pin!(start);
    loop {
        tokio::select! {
            started = &mut start => return started,
            Some(Order { answer, .. }) = orders.recv() => {
                // Nobody need wait for it.
                let _ = answer.send(Err(Refused::Starting));
            }
        }
    }
}

/// Connects, sets up what the server needs, and starts all handlers.
async fn start<I: Invoker + Clone>(
    target: &Target,
    generation: &Generation<I>,
    status: &Arc<Status>,
    stop: &CancellationToken,
) -> Result<Site<I>, StartError> {
    let manifest = &generation.manifest;
    let nats = Arc::new(start::connect(target, manifest, status).await?);
    let handlers: Vec<_> = generation.handlers.values().map(|versions| &versions.newest().handler).collect();
    let specs = start::consumers(&nats, &handlers, manifest, status).await?;
    neighbours::check(&nats, &specs, &manifest.nats.prefix, status).await?;
    let stop = Stop { requested: stop.child_token(), overdue: CancellationToken::new() };
    start::ensure_consumers(&nats, &specs, status, &stop.requested).await?;
    let count: usize = specs.iter().map(|(_, specs)| specs.len()).sum();
    let budget = Budget::new(division(&nats, manifest, count));
    status.account(&budget);
    let service = service::start(&nats, status, &manifest.nats.prefix, &stop.requested);
    let (manifest_of, seen) = watch::channel(Arc::clone(manifest));
    tokio::spawn(vigil::watch(Arc::clone(&nats), seen, stop.requested.clone()));
    let mut site = Site {
        manifest: manifest_of,
        status: Arc::clone(status),
        prefix: manifest.nats.prefix.as_str().into(),
        instance: status.name.as_str().into(),
        stop,
        budget,
        units: BTreeMap::new(),
        service,
        nats,
    };
    for (name, specs) in specs {
        let Some(versions) = generation.handlers.get(&name) else { continue };
        let unit = site.start(versions.clone(), specs).await;
        site.units.insert(name, unit);
    }
    Ok(site)
}

/// How the bytes that may be in flight are divided among so many consumers.
fn division(nats: &Nats, manifest: &Manifest, consumers: usize) -> in_flight::Division {
    let payload_max = nats.client.server_info().max_payload as u64;
    in_flight::divide(manifest.runtime.in_flight, consumers as u64, payload_max)
}

impl<I: Invoker + Clone> Site<I> {
    /// Starts a handler whose consumers are there.
    async fn start(&self, versions: Versions<I>, specs: Vec<Spec>) -> Unit<I> {
        let taken = |number: &usize| self.units.values().any(|unit| unit.purses.contains(number));
        let purses = (0..).filter(|number| !taken(number)).take(specs.len()).collect();
        Unit::start(self, versions, specs, purses).await
    }

    /// Waits for the events in flight; those that take longer than `limit` are handed back.
    async fn drain(self, limit: Duration) {
        let in_flight = || self.units.values().map(Unit::in_flight).sum::<usize>();
        join_all(self.units.values().map(Unit::stopped_pulling)).await;
        if in_flight() > 0 {
            tracing::info!(in_flight = in_flight(), "draining");
        }
        let ended = tokio::select! {
            ended = timeout(limit, join_all(self.units.values().map(Unit::drained))) => ended.is_ok(),
            () = self.stop.overdue.cancelled() => true,
        };
        if !ended {
            tracing::warn!(in_flight = in_flight(), "the time to drain is over; handing back what is not finished");
        }
        self.stop.overdue.cancel();
        let is_lost = self.nats.link.lost.is_cancelled();
        join_all(self.units.values().map(Unit::close)).await;
        join_all(self.units.values().map(|unit| unit.delete_consumers(&self.nats))).await;
        self.service.end().await;
        // Settlements are buffered. Where the connection is gone, the server delivers those events again.
        if !is_lost && timeout(Duration::from_secs(5), self.nats.client.flush()).await.is_err() {
            tracing::warn!("could not send the last settlements; their events are delivered again");
        }
    }
}
