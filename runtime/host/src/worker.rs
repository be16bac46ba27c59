//! The deliveries of one handler, as many at once as its policy allows.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Delivery};
use crate::fate;
use crate::invoker::Invoker;
use crate::pipeline::{NOTE_AFTER, Pipeline};
use crate::status::Status;

/// Takes the deliveries of one handler through its pipeline.
pub struct Worker<B, I> {
    pipeline: Pipeline<B, I>,
    status: Arc<Status>,
    slots: Semaphore,
    in_flight: TaskTracker,
}

impl<B: Broker, I: Invoker> Worker<B, I> {
    /// A worker whose deliveries are counted in `status` and tracked in `in_flight`.
    pub fn new(pipeline: Pipeline<B, I>, status: Arc<Status>, in_flight: TaskTracker) -> Arc<Worker<B, I>> {
        let slots = Semaphore::new(pipeline.handler.concurrency as usize);
        Arc::new(Worker { pipeline, status, slots, in_flight })
    }

    /// Starts the work on a delivery. How many are started is for the caller to bound.
    pub fn start(worker: &Arc<Worker<B, I>>, delivery: Delivery<B::Receipt>) {
        let task = Arc::clone(worker);
        worker.in_flight.spawn(async move { task.work(delivery).await });
    }

    async fn work(&self, delivery: Delivery<B::Receipt>) {
        let name = self.pipeline.handler.name.as_str();
        let _in_flight = self.status.begin(name);
        let mut taken = self.pipeline.take(delivery);
        let mut turn = pin!(self.slots.acquire());
        let slot = loop {
            tokio::select! {
                biased;
                () = self.pipeline.stop.requested.cancelled() => break None,
                slot = &mut turn => break slot.ok(),
                () = sleep(NOTE_AFTER) => self.pipeline.note_waiting(&mut taken).await,
            }
        };
        match slot {
            None => self.pipeline.hand_back(taken).await,
            Some(_slot) => {
                let fate = self.pipeline.handle(taken).await;
                self.status.record(name, &fate);
                fate::log(name, &fate);
            }
        }
    }
}
