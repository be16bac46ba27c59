//! The deliveries of one handler, as many at once as its policy allows.
//!
//! A task that has taken a delivery to its end takes another one, so that tasks are neither made nor moved for each.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tidemill_policy::reload::canary;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;
use tokio_util::sync::WaitForCancellationFuture;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::broker::{Broker, Delivery};
use crate::fate;
use crate::invoker::Invoker;
use crate::pipeline::{NOTE_AFTER, Pipeline, Slot, Taken};
use crate::status::HandlerStatus;
use crate::turns::{Turn, Turns};
use crate::version::Tally;

/// Takes the deliveries of one handler through its pipeline.
pub struct Worker<B: Broker, I> {
    line: ArcSwap<Line<B, I>>,
    status: Arc<HandlerStatus>,
    slots: Arc<Semaphore>,
    in_flight: TaskTracker,
    /// Tasks that wait for a delivery, the one that had one last on top: its memory is the most likely to be in the caches.
    idle: Mutex<Vec<oneshot::Sender<Job<B>>>>,
    /// Keeps the events of one key in order, where they arrive side by side.
    turns: Option<Arc<Turns>>,
}

/// The versions of a handler that take its deliveries.
pub struct Line<B, I> {
    /// The one that takes most of them.
    pub steady: Arc<Version<B, I>>,
    /// The one on trial, and the share of events that it gets.
    pub trial: Option<(Arc<Version<B, I>>, f64)>,
}

/// One version of a handler at work.
pub struct Version<B, I> {
    /// The path of its events.
    pub pipeline: Pipeline<B, I>,
    /// What came of its attempts.
    pub tally: Arc<Tally>,
}

/// A delivery, and the note that it is in flight.
struct Job<B: Broker> {
    delivery: Delivery<B::Receipt>,
    in_flight: TaskTrackerToken,
}

impl<B: Broker, I: Invoker> Worker<B, I> {
    /// A worker whose deliveries are counted in `status` and tracked in `in_flight`.
    pub fn new(
        line: Line<B, I>,
        status: Arc<HandlerStatus>,
        in_flight: TaskTracker,
        turns: Option<Arc<Turns>>,
    ) -> Arc<Worker<B, I>> {
        let slots = Arc::new(Semaphore::new(line.steady.pipeline.handler.concurrency as usize));
        let line = ArcSwap::from_pointee(line);
        Arc::new(Worker { line, status, slots, in_flight, idle: Mutex::default(), turns })
    }

    /// Has other versions take the deliveries that are started from now on.
    pub fn change(&self, line: Line<B, I>) {
        self.line.store(Arc::new(line));
    }

    /// Takes a delivery in hand, with the version that is to handle it. An event goes to the same one each time it comes.
    fn take(&self, delivery: Delivery<B::Receipt>) -> (Arc<Version<B, I>>, Taken<B::Receipt>) {
        let line = self.line.load();
        let taken = line.steady.pipeline.take(delivery);
        let version = match &line.trial {
            Some((version, share)) if canary::takes(taken.identity(), *share) => version,
            _ => &line.steady,
        };
        (Arc::clone(version), taken)
    }

    /// Starts the work on a delivery. How many are started is for the caller to bound. Of one key, they run in the
    /// order of their sequences, those that were started before.
    pub fn start(worker: &Arc<Worker<B, I>>, delivery: Delivery<B::Receipt>) {
        let Some(turns) = &worker.turns else {
            return worker.hand_over(Job { delivery, in_flight: worker.in_flight.token() });
        };
        let (version, taken) = worker.take(delivery);
        let handler = &version.pipeline.handler;
        let turn = handler.key_order().and_then(|order| {
            let (key, is_input, sequence) = taken.place(order);
            // The events of a key that is held up wait for what comes back, and one of them has the turn.
            let waits = is_input || !handler.parks();
            waits.then(|| turns.enter(key, is_input, sequence))
        });
        let task = Arc::clone(worker);
        worker.in_flight.spawn(async move { task.work(&version, taken, turn).await });
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
        let stop = self.line.load().steady.pipeline.stop.requested.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut next = Some(first);
        while let Some(Job { delivery, in_flight }) = next {
            let (version, taken) = self.take(delivery);
            self.work(&version, taken, None).await;
            // While this task waits, what it has used may be unloaded.
            drop(version);
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

    async fn work(&self, version: &Version<B, I>, mut taken: Taken<B::Receipt>, mut turn: Option<Turn>) {
        let pipeline = &version.pipeline;
        let name = pipeline.handler.name.as_str();
        let _in_flight = self.status.begin();
        match self.wait(pipeline, &mut taken, &mut turn).await {
            Wait::Over(slot) => {
                let fate = pipeline.handle(taken, slot).await;
                if !fate.has_ended() {
                    self.hold();
                }
                self.status.record(&fate);
                version.tally.count(&fate);
                fate::log(name, &fate);
            }
            Wait::Stopped => {
                self.hold();
                Box::pin(pipeline.hand_back(taken)).await;
            }
            // It comes again, and must not stand in the way of that.
            Wait::TakenAway => self.hold(),
        }
    }

    /// Waits for the event's turn, and for the right to run.
    async fn wait(&self, pipeline: &Pipeline<B, I>, taken: &mut Taken<B::Receipt>, turn: &mut Option<Turn>) -> Wait {
        if turn.is_none()
            && !pipeline.stop.requested.is_cancelled()
            && let Some(slot) = Slot::take_if_free(&self.slots)
        {
            return Wait::Over(slot);
        }
        Box::pin(self.wait_long(pipeline, taken, turn)).await
    }

    async fn wait_long(
        &self,
        pipeline: &Pipeline<B, I>,
        taken: &mut Taken<B::Receipt>,
        turn: &mut Option<Turn>,
    ) -> Wait {
        let mut slot = pin!(async {
            if let Some(turn) = turn {
                turn.granted().await;
            }
            Slot::take(&self.slots).await
        });
        loop {
            tokio::select! {
                biased;
                () = pipeline.stop.requested.cancelled() => return Wait::Stopped,
                () = pipeline.taken_away(taken) => return Wait::TakenAway,
                slot = &mut slot => return Wait::Over(slot),
                // Boxed, since it is large and rare.
                () = sleep(NOTE_AFTER) => Box::pin(pipeline.note_waiting(taken)).await,
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
    fn size_of_result<A, B, C, D, T>(_: impl Fn(A, B, C, D) -> T) -> usize {
        size_of::<T>()
    }

    /// Each event in hand has one; what happens rarely is boxed.
    #[test]
    fn what_an_event_takes_while_it_is_handled_stays_small() {
        type Of = &'static Worker<Nats, Arc<WasmHandler>>;
        let bytes = size_of_result::<Of, &'static Version<Nats, Arc<WasmHandler>>, _, _, _>(Worker::work);
        assert!(bytes <= 10 * 1024, "{bytes} bytes");
    }

    /// Many events wait for others to end; the allocator is quick with what is small.
    #[test]
    fn what_an_event_takes_while_it_waits_stays_small() {
        type Of = &'static Worker<Nats, Arc<WasmHandler>>;
        type Pipe = &'static Pipeline<Nats, Arc<WasmHandler>>;
        let bytes = size_of_result::<Of, Pipe, &'static mut Taken<_>, &'static mut Option<Turn>, _>(Worker::wait_long);
        assert!(bytes <= 1024, "{bytes} bytes");
    }
}
