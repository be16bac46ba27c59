//! The workers of one handler, which all change when its versions do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tidemill_policy::manifest::Handler;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::invoker::Invoker;
use crate::pipeline::{Pipeline, Recent, Stop};
use crate::status::HandlerStatus;
use crate::turns::Turns;
use crate::version::{Part, Versions};
use crate::worker::{Line, Version, Worker};

/// What the pipelines of all versions of one handler have in common.
#[derive(Debug)]
pub struct Site<B> {
    /// Stores and settles.
    pub broker: Arc<B>,
    /// The first part of our own subjects.
    pub prefix: Arc<str>,
    /// This instance's name.
    pub instance: Arc<str>,
    /// The time of day.
    pub clock: Clock,
    /// What this process knows of events that were or are being handled.
    pub recent: Arc<Recent>,
    /// Where attempts wait.
    pub gate: Arc<Gate>,
}

/// Makes the workers of one handler, and changes those that there are.
pub struct Crew<B: Broker, I> {
    site: Site<B>,
    status: Arc<HandlerStatus>,
    state: Mutex<State<B, I>>,
}

struct State<B: Broker, I> {
    versions: Versions<I>,
    workers: Vec<(Weak<Worker<B, I>>, Stop)>,
}

impl<B: Broker, I: Invoker + Clone> Crew<B, I> {
    /// A crew without workers.
    pub fn new(site: Site<B>, status: Arc<HandlerStatus>, versions: Versions<I>) -> Crew<B, I> {
        status.runs(&versions);
        Crew { site, status, state: Mutex::new(State { versions, workers: Vec::new() }) }
    }

    /// What is told about the handler.
    pub fn status(&self) -> &HandlerStatus {
        &self.status
    }

    /// The policy now.
    pub fn handler(&self) -> Arc<Handler> {
        Arc::clone(&self.lock().versions.steady.handler)
    }

    /// A worker whose deliveries are tracked in `in_flight`, and of one key handled in `turns`, until `stop`.
    pub fn worker(&self, stop: &Stop, in_flight: TaskTracker, turns: Option<Arc<Turns>>) -> Arc<Worker<B, I>> {
        let mut state = self.lock();
        let line = self.line(&state.versions, stop);
        let worker = Worker::new(line, Arc::clone(&self.status), in_flight, turns);
        state.workers.retain(|(worker, _)| worker.strong_count() > 0);
        state.workers.push((Arc::downgrade(&worker), stop.clone()));
        worker
    }

    /// Has events taken by other versions from now on. Those in flight end on the version that took them.
    pub fn change(&self, versions: Versions<I>) {
        let mut state = self.lock();
        for (worker, stop) in &state.workers {
            if let Some(worker) = worker.upgrade() {
                worker.change(self.line(&versions, stop));
            }
        }
        self.site.gate.follow(&versions.newest().handler.retry);
        self.status.runs(&versions);
        state.versions = versions;
    }

    fn line(&self, versions: &Versions<I>, stop: &Stop) -> Line<B, I> {
        let trial = versions.trial.as_ref().map(|trial| (self.version(&trial.part, stop), trial.share));
        Line { steady: self.version(&versions.steady, stop), trial }
    }

    fn version(&self, part: &Part<I>, stop: &Stop) -> Arc<Version<B, I>> {
        let Site { broker, prefix, instance, clock, recent, gate } = &self.site;
        let pipeline = Pipeline {
            handler: Arc::clone(&part.handler),
            invoker: part.invoker.clone(),
            schemas: Arc::clone(&part.schemas),
            broker: Arc::clone(broker),
            prefix: Arc::clone(prefix),
            instance: Arc::clone(instance),
            component: part.component.clone(),
            clock: *clock,
            stop: stop.clone(),
            recent: Arc::clone(recent),
            gate: Arc::clone(gate),
        };
        Arc::new(Version { pipeline, tally: Arc::clone(&part.tally) })
    }

    fn lock(&self) -> MutexGuard<'_, State<B, I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
