//! The deliveries of one handler, as many at once as its policy allows.
//!
//! A task that has taken a delivery to its end takes another one, so that tasks are neither made nor moved for each. Where
//! nothing but the number of slots keeps deliveries waiting, they wait in a queue, from which such a task takes the next
//! one with the slot that it has; else each waits in a task of its own.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tidemill_policy::reload::canary;
use tokio::sync::oneshot;
use tokio_util::sync::WaitForCancellationFuture;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::broker::{Broker, Delivery};
use crate::fate;
use crate::invoker::Invoker;
use crate::pipeline::{Pipeline, Taken};
use crate::slots::{Slot, Slots};
use crate::status::{HandlerStatus, InFlight};
use crate::turns::{Turn, Turns};
use crate::version::Tally;

/// Takes the deliveries of one handler through its pipeline.
pub struct Worker<B: Broker, I> {
    line: ArcSwap<Line<B, I>>,
    status: Arc<HandlerStatus>,
    slots: Arc<Slots>,
    in_flight: TaskTracker,
    queue: Mutex<Queue<B>>,
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

/// A delivery, the notes that it is in flight, and its slot where it has one.
struct Job<B: Broker> {
    delivery: Delivery<B::Receipt>,
    in_flight: (TaskTrackerToken, InFlight),
    slot: Option<Slot>,
}

/// Deliveries that wait for slots.
struct Queue<B: Broker> {
    jobs: VecDeque<Job<B>>,
    /// Whether a task waits for a slot for them.
    is_fed: bool,
}

impl<B: Broker, I: Invoker> Worker<B, I> {
    /// A worker whose deliveries are counted in `status` and tracked in `in_flight`.
    pub fn new(
        line: Line<B, I>,
        status: Arc<HandlerStatus>,
        in_flight: TaskTracker,
        turns: Option<Arc<Turns>>,
    ) -> Arc<Worker<B, I>> {
        let slots = Slots::new(line.steady.pipeline.handler.concurrency as usize);
        let line = ArcSwap::from_pointee(line);
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), is_fed: false });
        Arc::new(Worker { line, status, slots, in_flight, queue, idle: Mutex::default(), turns })
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
        let in_flight = (worker.in_flight.token(), worker.status.begin());
        let Some(turns) = &worker.turns else {
            return worker.begin(Job { delivery, in_flight, slot: None });
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
        tokio::spawn(async move {
            task.work(&version, taken, turn, None).await;
            drop(in_flight);
        });
    }

    /// Has a delivery begun as soon as there is a slot. What may wait for long, or may be taken away meanwhile, waits in
    /// a task of its own.
    fn begin(self: &Arc<Self>, mut job: Job<B>) {
        if self.line.load().steady.pipeline.handler.key_order().is_some() {
            return self.hand_over(job);
        }
        let mut queue = self.queue();
        if queue.jobs.is_empty() {
            job.slot = self.slots.take_if_free();
        }
        if job.slot.is_some() {
            drop(queue);
            return self.hand_over(job);
        }
        queue.jobs.push_back(job);
        if !std::mem::replace(&mut queue.is_fed, true) {
            tokio::spawn(Arc::clone(self).feed());
        }
    }

    /// Has the deliveries in the queue begun with slots that others give up, until there are none.
    async fn feed(self: Arc<Self>) {
        let stop = self.line.load().steady.pipeline.stop.requested.clone();
        let mut slot = pin!(self.slots.take_for_queue());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.dissolve_queue(),
                taken = &mut slot => {
                    let Some(job) = self.next_in_queue() else { return };
                    self.hand_over(Job { slot: Some(taken), ..job });
                    slot.set(self.slots.take_for_queue());
                }
            }
        }
    }

    /// The next delivery of the queue; where there is none, nobody waits for a slot for it any more.
    fn next_in_queue(&self) -> Option<Job<B>> {
        let mut queue = self.queue();
        let next = queue.jobs.pop_front();
        queue.is_fed &= next.is_some();
        next
    }

    /// Has each delivery of the queue wait in a task of its own.
    fn dissolve_queue(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.is_fed = false;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        for job in jobs {
            self.hand_over(job);
        }
    }

    /// The delivery that follows on one that has ended, with its slot, unless that is wanted elsewhere.
    fn follow_up(&self, slot: Option<Slot>) -> Option<Job<B>> {
        let slot = slot.filter(Slot::can_be_passed_on)?;
        let job = self.queue().jobs.pop_front()?;
        Some(Job { slot: Some(slot), ..job })
    }

    fn queue(&self) -> MutexGuard<'_, Queue<B>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
        while let Some(Job { delivery, in_flight, slot }) = next {
            let (version, taken) = self.take(delivery);
            let slot = self.work(&version, taken, None, slot).await;
            // While this task waits, what it has used may be unloaded.
            drop(version);
            drop(in_flight);
            next = match self.follow_up(slot) {
                Some(job) => Some(job),
                None => self.next(stopped.as_mut()).await,
            };
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

    fn idle(&self) -> MutexGuard<'_, Vec<oneshot::Sender<Job<B>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event that will be delivered again must not be overtaken by those that wait behind it.
    fn hold(&self) {
        if let Some(turns) = &self.turns {
            turns.hold();
        }
    }

    /// Takes a delivery to its end, and gives back the slot that it had.
    async fn work(
        &self,
        version: &Version<B, I>,
        taken: Taken<B::Receipt>,
        mut turn: Option<Turn>,
        slot: Option<Slot>,
    ) -> Option<Slot> {
        let pipeline = &version.pipeline;
        let name = pipeline.handler.name.as_str();
        let wait = match slot {
            Some(slot) if !pipeline.stop.requested.is_cancelled() => Wait::Over(slot),
            Some(_) => Wait::Stopped,
            None => self.wait(pipeline, &taken, &mut turn).await,
        };
        match wait {
            Wait::Over(slot) => {
                let (fate, slot) = pipeline.handle(taken, slot).await;
                if !fate.has_ended() {
                    self.hold();
                }
                self.status.record(&fate);
                version.tally.count(&fate);
                fate::log(name, &fate);
                return slot;
            }
            Wait::Stopped => {
                self.hold();
                pipeline.hand_back(taken).await;
            }
            // It comes again, and must not stand in the way of that.
            Wait::TakenAway => self.hold(),
        }
        None
    }

    /// Waits for the event's turn, and for the right to run.
    async fn wait(&self, pipeline: &Pipeline<B, I>, taken: &Taken<B::Receipt>, turn: &mut Option<Turn>) -> Wait {
        if turn.is_none()
            && !pipeline.stop.requested.is_cancelled()
            && let Some(slot) = self.slots.take_if_free()
        {
            return Wait::Over(slot);
        }
        Box::pin(self.wait_long(pipeline, taken, turn)).await
    }

    async fn wait_long(&self, pipeline: &Pipeline<B, I>, taken: &Taken<B::Receipt>, turn: &mut Option<Turn>) -> Wait {
        let slot = async {
            if let Some(turn) = turn {
                turn.granted().await;
            }
            self.slots.take().await
        };
        tokio::select! {
            biased;
            () = pipeline.stop.requested.cancelled() => Wait::Stopped,
            () = pipeline.taken_away(taken) => Wait::TakenAway,
            slot = slot => Wait::Over(slot),
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

    type At = Worker<Nats, Arc<WasmHandler>>;
    type Way = Pipeline<Nats, Arc<WasmHandler>>;
    type Event = Taken<<Nats as Broker>::Receipt>;

    /// The size of what a function returns. It is not called.
    fn size_of_result<A, T>(_: impl Fn(A) -> T) -> usize {
        size_of::<T>()
    }

    /// Each event in hand has one, and it is moved into each of the futures around it; what happens rarely is boxed.
    #[test]
    fn what_an_event_takes_while_it_is_handled_stays_small() {
        type Of = (&'static At, &'static Version<Nats, Arc<WasmHandler>>, Event);
        let bytes = size_of_result(|(worker, version, taken): Of| worker.work(version, taken, None, None));
        assert!(bytes <= 4 * 1024, "{bytes} bytes");
    }

    /// Many events wait for others to end; the allocator is quick with what is small.
    #[test]
    fn what_an_event_takes_while_it_waits_stays_small() {
        type Of = (&'static At, &'static Way, &'static Event, &'static mut Option<Turn>);
        let bytes = size_of_result(|(worker, pipeline, taken, turn): Of| worker.wait_long(pipeline, taken, turn));
        assert!(bytes <= 1024, "{bytes} bytes");
    }
}
