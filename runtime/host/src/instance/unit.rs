//! One handler at work on a connection: its consumers, its workers, its events in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Site;
use super::active::Candidate;
use crate::broker::nats::Nats;
use crate::broker::nats::consume::{self, Spec};
use crate::clock::Clock;
use crate::crew::{self, Crew};
use crate::gate::Gate;
use crate::gate::keeper::{self, Keeper};
use crate::in_flight::Purse;
use crate::invoker::Invoker;
use crate::pipeline::Stop;
use crate::version::Versions;
use crate::worker::Worker;

/// How long the other instances are told of probes that were cut off.
const LAST_NEWS_MAX: Duration = Duration::from_secs(2);

/// One handler at work.
pub(super) struct Unit<I> {
    /// The numbers of its consumers in the account of bytes in flight.
    pub(super) purses: Vec<usize>,
    nats: Arc<Nats>,
    crew: Arc<Crew<Nats, I>>,
    specs: Vec<Spec>,
    stop: Stop,
    /// What pulls.
    consumers: TaskTracker,
    in_flight: TaskTracker,
    keepers: TaskTracker,
}

impl<I: Invoker + Clone> Unit<I> {
    /// Starts to pull from consumers that are there.
    pub(super) async fn start(site: &Site<I>, versions: Versions<I>, specs: Vec<Spec>, purses: Vec<usize>) -> Unit<I> {
        let handler = Arc::clone(&versions.steady.handler);
        let gate = Gate::new(Arc::clone(&handler), Clock::System);
        let status = site.status.handler(&handler.name);
        status.watch(&gate);
        if let Some(first) = specs.first() {
            status.reads(first);
        }
        let of_handler = crew::Site {
            broker: Arc::clone(&site.nats),
            prefix: Arc::clone(&site.prefix),
            instance: Arc::clone(&site.instance),
            clock: Clock::System,
            recent: Arc::default(),
            gate: Arc::clone(&gate),
        };
        let stop = Stop { requested: site.stop.requested.child_token(), overdue: site.stop.overdue.child_token() };
        let unit = Unit {
            purses,
            nats: Arc::clone(&site.nats),
            crew: Arc::new(Crew::new(of_handler, status, versions)),
            specs,
            stop,
            consumers: TaskTracker::new(),
            in_flight: TaskTracker::new(),
            keepers: TaskTracker::new(),
        };
        if keeper::is_shared(&handler) {
            let names = unit.specs.iter().map(|spec| (spec.stream.clone(), spec.name.clone())).collect();
            let keeper = Keeper::start(Arc::clone(&gate), Arc::clone(&site.nats), site.status.name.clone(), names);
            if let Some(keeper) = unit.stop.requested.run_until_cancelled(keeper).await {
                unit.keepers.spawn(keeper.run(unit.stop.overdue.clone()));
            }
        }
        unit.pull(site, &gate, handler.window().is_some());
        unit
    }

    fn pull(&self, site: &Site<I>, gate: &Gate, has_active: bool) {
        let purse = |number: &usize| site.budget.purse(*number);
        let specs = self.specs.iter().cloned().zip(self.purses.iter().map(purse));
        if has_active {
            let (nats, crew) = (Arc::clone(&site.nats), Arc::clone(&self.crew));
            let instance = Arc::clone(&site.instance);
            let candidate = Candidate { nats, crew, instance, specs: specs.collect(), stop: self.stop.clone() };
            self.in_flight.spawn(candidate.run());
            return;
        }
        let worker = self.crew.worker(&self.stop, self.in_flight.clone(), None);
        for consumer in specs {
            self.consumers.spawn(pull(&site.nats, consumer, gate.intake(), &self.stop, &worker));
        }
    }

    /// Has events taken by other versions from now on.
    pub(super) fn change(&self, versions: Versions<I>) {
        self.crew.change(versions);
    }

    /// How many events are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Waits until it has stopped to pull, as it was asked to.
    pub(super) async fn stopped_pulling(&self) {
        self.consumers.close();
        self.consumers.wait().await;
        self.in_flight.close();
    }

    /// Waits until nothing is in flight any more, and the server is told so before anything else.
    pub(super) async fn drained(&self) {
        self.in_flight.wait().await;
        self.nats.settlements_given().await;
    }

    /// Stops pulling and finishes what is in flight; what takes longer than `limit` is handed back. The consumers stay.
    pub(super) async fn end(&self, limit: Duration) {
        self.stop.requested.cancel();
        self.stopped_pulling().await;
        if timeout(limit, self.drained()).await.is_err() {
            tracing::warn!(
                in_flight = self.in_flight(),
                "the time to drain is over; handing back what is not finished"
            );
        }
        self.stop.overdue.cancel();
        self.close().await;
    }

    /// Ends what is left when the time to drain is over.
    pub(super) async fn close(&self) {
        self.drained().await;
        self.keepers.close();
        // They have nothing to tell but which probe was cut off; if they do not, its right ends by itself.
        let _ = timeout(LAST_NEWS_MAX, self.keepers.wait()).await;
    }

    /// Deletes those consumers that are of this instance only. Left behind, they go by themselves after a minute.
    pub(super) async fn delete_consumers(&self, nats: &Nats) {
        for spec in self.specs.iter().filter(|spec| spec.broadcast && !nats.link.lost.is_cancelled()) {
            let _ = nats.context.delete_consumer_from_stream(&spec.name, &spec.stream).await;
        }
    }
}

/// Pulls from a consumer for a worker, as much as `intake` allows, until `stop`.
pub(super) fn pull<I: Invoker>(
    nats: &Arc<Nats>,
    (spec, purse): (Spec, Purse),
    intake: watch::Receiver<u32>,
    stop: &Stop,
    worker: &Arc<Worker<Nats, I>>,
) -> impl Future<Output = ()> + use<I> {
    let worker = Arc::clone(worker);
    let hand_over = move |delivery| Worker::start(&worker, delivery);
    consume::run(Arc::clone(nats), spec, purse, intake, stop.requested.clone(), stop.overdue.clone(), hand_over)
}
