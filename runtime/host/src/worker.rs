//! The deliveries of one handler, as many at once as its policy allows.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Delivery};
use crate::fate;
use crate::invoker::Invoker;
use crate::pipeline::{Opened, Pipeline, Slot};
use crate::status::Status;
use crate::turns::{Turn, Turns};

/// Takes the deliveries of one handler through its pipeline.
pub struct Worker<B, I> {
    pipeline: Pipeline<B, I>,
    status: Arc<Status>,
    slots: Arc<Semaphore>,
    in_flight: TaskTracker,
    /// Keeps the events of one key in order, where they arrive side by side.
    turns: Option<Arc<Turns>>,
}

impl<B: Broker, I: Invoker> Worker<B, I> {
    /// A worker whose deliveries are counted in `status` and tracked in `in_flight`.
    pub fn new(
        pipeline: Pipeline<B, I>,
        status: Arc<Status>,
        in_flight: TaskTracker,
        turns: Option<Arc<Turns>>,
    ) -> Arc<Worker<B, I>> {
        let slots = Arc::new(Semaphore::new(pipeline.handler.concurrency as usize));
        Arc::new(Worker { pipeline, status, slots, in_flight, turns })
    }

    /// Starts the work on a delivery. How many are started is for the caller to bound. Of one key, they run in the
    /// order of their sequences, those that were started before.
    pub fn start(worker: &Arc<Worker<B, I>>, delivery: Delivery<B::Receipt>) {
        let task = Arc::clone(worker);
        let ordered = worker.turns.as_ref().zip(worker.pipeline.handler.key_order());
        let Some((turns, order)) = ordered else {
            worker.in_flight.spawn(async move { task.work(task.pipeline.open(delivery), None).await });
            return;
        };
        let opened = worker.pipeline.open(delivery);
        let (key, is_input, sequence) = opened.place(order);
        let turn = turns.enter(key, is_input, sequence);
        worker.in_flight.spawn(async move { task.work(opened, Some(turn)).await });
    }

    /// An event that will be delivered again must not be overtaken by those that wait behind it.
    fn hold(&self) {
        if let Some(turns) = &self.turns {
            turns.hold();
        }
    }

    async fn work(&self, opened: Opened<B::Receipt>, mut turn: Option<Turn>) {
        let name = self.pipeline.handler.name.as_str();
        let _in_flight = self.status.begin(name);
        let slot = async {
            if let Some(turn) = &mut turn {
                turn.granted().await;
            }
            Slot::take(&self.slots).await
        };
        let slot = tokio::select! {
            biased;
            () = self.pipeline.stop.requested.cancelled() => None,
            // It comes again, and must not stand in the way of that.
            () = self.pipeline.taken_away(&opened) => {
                self.hold();
                return;
            }
            slot = slot => Some(slot),
        };
        match slot {
            None => {
                self.hold();
                self.pipeline.hand_back(opened).await;
            }
            Some(slot) => {
                let fate = self.pipeline.handle(opened, slot).await;
                if !fate.has_ended() {
                    self.hold();
                }
                self.status.record(name, &fate);
                fate::log(name, &fate);
            }
        }
    }
}
