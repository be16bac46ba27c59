//! The deliveries of one handler, as many at once as its policy allows.
//!
//! A task that has taken a delivery to its end takes another one, so that tasks are neither made nor moved for each.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;
use tokio_util::sync::WaitForCancellationFuture;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::broker::{Broker, Delivery};
use crate::fate;
use crate::invoker::Invoker;
use crate::pipeline::{NOTE_AFTER, Pipeline, Slot, Taken};
use crate::status::Status;
use crate::turns::{Turn, Turns};

/// Takes the deliveries of one handler through its pipeline.
pub struct Worker<B: Broker, I> {
    pipeline: Pipeline<B, I>,
    status: Arc<Status>,
    slots: Arc<Semaphore>,
    in_flight: TaskTracker,
    /// Tasks that wait for a delivery, the one that had one last on top: its memory is the most likely to be in the caches.
    idle: Mutex<Vec<oneshot::Sender<Job<B>>>>,
    /// Keeps the events of one key in order, where they arrive side by side.
    turns: Option<Arc<Turns>>,
}

/// A delivery, and the note that it is in flight.
struct Job<B: Broker> {
    delivery: Delivery<B::Receipt>,
    in_flight: TaskTrackerToken,
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
        Arc::new(Worker { pipeline, status, slots, in_flight, idle: Mutex::default(), turns })
    }

    /// Starts the work on a delivery. How many are started is for the caller to bound. Of one key, they run in the
    /// order of their sequences, those that were started before.
    pub fn start(worker: &Arc<Worker<B, I>>, delivery: Delivery<B::Receipt>) {
        let ordered = worker.turns.as_ref().zip(worker.pipeline.handler.key_order());
        let Some((turns, order)) = ordered else {
            return worker.hand_over(Job { delivery, in_flight: worker.in_flight.token() });
        };
        let taken = worker.pipeline.take(delivery);
        let (key, is_input, sequence) = taken.place(order);
        // The events of a key that is held up wait for what comes back, and one of them has the turn.
        let waits = is_input || !worker.pipeline.handler.parks();
        let turn = waits.then(|| turns.enter(key, is_input, sequence));
        let task = Arc::clone(worker);
        worker.in_flight.spawn(async move { task.work(taken, turn).await });
    }

    /// Gives a delivery to a task that waits for one, or to a new one.
    fn hand_over(self: &Arc<Self>, mut job: Job<B>) {
        while let Some(task) = self.idle().pop() {
            match task.send(job) {
                Ok(()) => return,
                // It has ended.
                Err(back) => job = back,
            }
        }
        tokio::spawn(Arc::clone(self).work_on(job));
    }

    /// Takes one delivery after the other to its end, until the process is asked to stop.
    async fn work_on(self: Arc<Self>, first: Job<B>) {
        let mut stopped = pin!(self.pipeline.stop.requested.cancelled());
        let mut next = Some(first);
        while let Some(Job { delivery, in_flight }) = next {
            self.work(self.pipeline.take(delivery), None).await;
            drop(in_flight);
            next = self.next(stopped.as_mut()).await;
        }
    }

    /// Waits for another delivery; nothing where the process is asked to stop.
    async fn next(&self, stopped: Pin<&mut WaitForCancellationFuture<'_>>) -> Option<Job<B>> {
        let (task, mut job) = oneshot::channel();
        self.idle().push(task);
        tokio::select! {
            biased;
            job = &mut job => return job.ok(),
            () = stopped => {}
        }
        // One may have come in this moment.
        job.close();
        job.try_recv().ok()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<oneshot::Sender<Job<B>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event that will be delivered again must not be overtaken by those that wait behind it.
    fn hold(&self) {
        if let Some(turns) = &self.turns {
            turns.hold();
        }
    }

    async fn work(&self, mut taken: Taken<B::Receipt>, mut turn: Option<Turn>) {
        let name = self.pipeline.handler.name.as_str();
        let _in_flight = self.status.begin(name);
        match self.wait(&mut taken, &mut turn).await {
            Wait::Over(slot) => {
                let fate = self.pipeline.handle(taken, slot).await;
                if !fate.has_ended() {
                    self.hold();
                }
                self.status.record(name, &fate);
                fate::log(name, &fate);
            }
            Wait::Stopped => {
                self.hold();
                Box::pin(self.pipeline.hand_back(taken)).await;
            }
            // It comes again, and must not stand in the way of that.
            Wait::TakenAway => self.hold(),
        }
    }

    /// Waits for the event's turn, and for the right to run.
    async fn wait(&self, taken: &mut Taken<B::Receipt>, turn: &mut Option<Turn>) -> Wait {
        if turn.is_none()
            && !self.pipeline.stop.requested.is_cancelled()
            && let Some(slot) = Slot::take_if_free(&self.slots)
        {
            return Wait::Over(slot);
        }
        Box::pin(self.wait_long(taken, turn)).await
    }

    async fn wait_long(&self, taken: &mut Taken<B::Receipt>, turn: &mut Option<Turn>) -> Wait {
        let mut slot = pin!(async {
            if let Some(turn) = turn {
                turn.granted().await;
            }
            Slot::take(&self.slots).await
        });
        loop {
            tokio::select! {
                biased;
                () = self.pipeline.stop.requested.cancelled() => return Wait::Stopped,
                () = self.pipeline.taken_away(taken) => return Wait::TakenAway,
                slot = &mut slot => return Wait::Over(slot),
                () = sleep(NOTE_AFTER) => self.pipeline.note_waiting(taken).await,
            }
        }
    }
}

/// What an event's wait to be begun has come to.
enum Wait {
    /// It may run.
    Over(Slot),
    /// The process is asked to stop.
    Stopped,
    /// The broker may have given it to somebody else.
    TakenAway,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::nats::Nats;
    use crate::invoker::wasm::WasmHandler;

    /// The size of what a function returns. It is not called.
    fn size_of_result<A, B, C, T>(_: impl Fn(A, B, C) -> T) -> usize {
        size_of::<T>()
    }

    /// Each event in hand has one; what happens rarely is boxed.
    #[test]
    fn what_an_event_takes_while_it_is_handled_stays_small() {
        type Of = &'static Worker<Nats, Arc<WasmHandler>>;
        let bytes = size_of_result::<Of, _, _, _>(Worker::work);
        assert!(bytes <= 10 * 1024, "{bytes} bytes");
    }
}
