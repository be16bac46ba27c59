//! A handler of which one instance at a time is the active one: it pulls, the others stand by.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::unit::pull;
use crate::broker::nats::Nats;
use crate::broker::nats::consume::Spec;
use crate::crew::Crew;
use crate::in_flight::Purse;
use crate::invoker::Invoker;
use crate::leader::Leader;
use crate::pipeline::Stop;
use crate::turns::Turns;

/// An instance that may become the active one of a handler.
pub(super) struct Candidate<I> {
    pub(super) nats: Arc<Nats>,
    pub(super) crew: Arc<Crew<Nats, I>>,
    pub(super) instance: Arc<str>,
    pub(super) specs: Vec<(Spec, Purse)>,
    pub(super) stop: Stop,
}

impl<I: Invoker + Clone> Candidate<I> {
    /// Serves term after term, until the process stops and what was begun has ended.
    pub(super) async fn run(self) {
        let leader = Leader::new(Arc::clone(&self.nats), &self.crew.handler(), &self.instance);
        leader.lead(&self.stop, |of_term| self.serve(of_term)).await;
    }

    /// Pulls until the process is asked to stop, and waits for what was begun.
    async fn serve(&self, stop: Stop) {
        let _active = self.crew.status().activate();
        let in_flight = TaskTracker::new();
        let turns = Arc::new(Turns::default());
        let worker = self.crew.worker(&stop, in_flight.clone(), Some(Arc::clone(&turns)));
        let consumers = TaskTracker::new();
        // What is in flight must come into hand before anything begins, so it is not for the gate to say how much is.
        let everything = watch::channel(u32::MAX).1;
        for (spec, purse) in &self.specs {
            let turns = spec.turns.as_ref().map(|_| Arc::clone(&turns));
            let spec = Spec { turns, ..spec.clone() };
            consumers.spawn(pull(&self.nats, (spec, purse.clone()), everything.clone(), &stop, &worker));
        }
        consumers.close();
        consumers.wait().await;
        in_flight.close();
        in_flight.wait().await;
        self.nats.settlements_given().await;
    }
}
