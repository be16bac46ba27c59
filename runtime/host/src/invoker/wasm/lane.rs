//! The long lane: threads of their own for calls that compute for long, so that they keep nobody waiting.
//!
//! A call is begun where its event is handled. If it is still computing after its first turns, it is handed over to the
//! lane, which gives each call a turn and handlers turns in fair order. The lane knows neither handlers nor guests: a
//! call is a future that wakes itself when its turn is over.
//!
//! Its threads have a lower priority than all others. Most are spare threads: they have what nobody else wants, which may
//! be nothing. One gets on beside a handler that is always busy, and takes turns only while no spare thread does.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::{io, mem, thread};

use tidemill_policy::share::turns::Turns;
use tokio::runtime::Handle;
use tracing::dispatcher::{self, Dispatch};

use self::spare::Spare;

/// A call that may be run by one thread after the other.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// For how long calls wait while no spare thread takes any, before the other one does: longer than their turns.
const PATIENCE: Duration = Duration::from_millis(10);

/// The threads, and the calls that wait for a turn. The threads end when this is dropped, and what waits is dropped.
pub(super) struct Lane<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// Somebody waits for a turn, or the lane is closed: for the spare threads.
    changed: Condvar,
    /// The same for the other one.
    called: Condvar,
    calls: Arc<AtomicUsize>,
}

struct Queue<T> {
    turns: Turns<u64, Job<T>>,
    /// How many turns were taken by spare threads.
    spare_turns: u64,
    /// Whether the other thread must be called when somebody waits for a turn.
    is_asleep: bool,
    is_open: bool,
}

/// What a turn is taken for.
enum Job<T> {
    Call(Arc<Task<T>>),
    /// To drop something, which takes a while.
    Drop(Box<dyn Any + Send>),
}

/// A call in the lane.
struct Task<T> {
    handler: u64,
    lane: Arc<Shared<T>>,
    /// Where the timers of its host calls live.
    runtime: Handle,
    /// Where its log goes.
    log: Dispatch,
    place: Mutex<Place<T>>,
}

/// Where a call in the lane is, and who waits for it.
struct Place<T> {
    stage: Stage<T>,
    owner: Option<Waker>,
}

enum Stage<T> {
    /// It wants a turn, and is in the queue.
    Queued(Call<T>),
    /// A thread runs it.
    Running {
        /// Whether it wants another turn after this one.
        wants_more: bool,
        /// Whether its owner wants it back after this one.
        wanted_back: bool,
    },
    /// It waits for something else than a turn, or its owner is to take it back.
    Waiting(Call<T>),
    /// It has ended, or panicked.
    Ended(Result<T, Box<dyn Any + Send>>),
    /// It was taken back or dropped.
    Gone,
}

/// A call that was handed over. If this is dropped, the call is: at once, or after its turn if it has one.
pub(super) struct Handed<T>(Arc<Task<T>>);

/// What becomes of a call that is taken back.
pub(super) enum Taken<T> {
    /// It had ended.
    Ended(T),
    /// It is as it was when its last turn was over.
    Back(Call<T>),
}

impl<T: Send + 'static> Lane<T> {
    /// Starts so many spare threads, and the one that is sure to get on.
    pub(super) fn start(spare: usize) -> io::Result<Lane<T>> {
        let lane = Lane::without_threads();
        // From here on, an error closes the lane.
        for number in 0..spare {
            lane.add_thread(&format!("tidemill-long-{number}"), Shared::work_sparely)?;
        }
        lane.add_thread("tidemill-sure", Shared::work_surely)?;
        Ok(lane)
    }

    fn without_threads() -> Lane<T> {
        let queue = Queue { turns: Turns::new(), spare_turns: 0, is_asleep: false, is_open: true };
        let (changed, called) = (Condvar::new(), Condvar::new());
        Lane(Arc::new(Shared { queue: Mutex::new(queue), changed, called, calls: Arc::default() }))
    }

    fn add_thread(&self, name: &str, work: fn(&Shared<T>)) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared)).map(drop)
    }

    /// How many calls were handed over and have not come back, at any time.
    pub(super) fn calls(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0.calls)
    }

    /// Hands a call of a handler over. Must be called in a tokio runtime, which the call's timers use.
    pub(super) fn hand_over(&self, handler: u64, call: Call<T>) -> Handed<T> {
        let place = Place { stage: Stage::Queued(call), owner: None };
        let (runtime, log) = (Handle::current(), dispatcher::get_default(Clone::clone));
        let task = Task { handler, lane: Arc::clone(&self.0), runtime, log, place: Mutex::new(place) };
        let task = Arc::new(task);
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        task.enqueue();
        Handed(task)
    }

    /// Drops something of a handler that takes a while to be dropped.
    pub(super) fn dispose(&self, handler: u64, thing: impl Any + Send) {
        self.0.enqueue(handler, Job::Drop(Box::new(thing)));
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.is_open = false;
        let waiting = mem::take(&mut queue.turns);
        drop(queue);
        self.0.changed.notify_all();
        self.0.called.notify_all();
        drop(waiting);
    }
}

impl<T: Send + 'static> Shared<T> {
    /// Something waits for a turn.
    fn enqueue(&self, handler: u64, job: Job<T>) {
        let mut queue = lock(&self.queue);
        if queue.is_open {
            queue.turns.wait(handler, job);
            let is_asleep = mem::take(&mut queue.is_asleep);
            drop(queue);
            self.changed.notify_one();
            if is_asleep {
                self.called.notify_one();
            }
        }
    }

    /// What each spare thread does until the lane is closed.
    fn work_sparely(&self) {
        priority::leave_all();
        let mut spare = Spare::new();
        self.work_while(|has_waited| spare.has_processor(has_waited));
    }

    /// Takes turns until the lane is closed, each if it may then, which may depend on whether it has waited before.
    fn work_while(&self, mut may: impl FnMut(bool) -> bool) {
        while let Some(has_waited) = self.wait() {
            if !may(has_waited) {
                // Another one may have been left asleep.
                self.changed.notify_one();
            } else if let Some(job) = self.take() {
                job.run();
            }
        }
    }

    /// Waits until something wants a turn, and tells whether it had to; nothing if the lane was closed.
    fn wait(&self) -> Option<bool> {
        let mut queue = lock(&self.queue);
        let mut has_waited = false;
        while queue.is_open && queue.turns.is_empty() {
            has_waited = true;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.is_open.then_some(has_waited)
    }

    /// What is to have the next turn, for a spare thread.
    fn take(&self) -> Option<Job<T>> {
        let mut queue = lock(&self.queue);
        let job = queue.turns.grant()?;
        queue.spare_turns += 1;
        Some(job)
    }

    /// What the thread does that is sure to get on, until the lane is closed: it takes turns while calls wait and no spare
    /// thread takes any.
    fn work_surely(&self) {
        priority::leave_most();
        let mut queue = lock(&self.queue);
        while queue.is_open {
            if queue.turns.is_empty() {
                queue.is_asleep = true;
                queue = self.called.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let seen = queue.spare_turns;
            let stands = |queue: &mut Queue<T>| queue.is_open && queue.spare_turns == seen;
            let waited = self.called.wait_timeout_while(queue, PATIENCE, stands);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            while queue.spare_turns == seen
                && let Some(job) = queue.turns.grant()
            {
                drop(queue);
                job.run();
                thread::yield_now();
                queue = lock(&self.queue);
            }
        }
    }
}

impl<T: Send + 'static> Job<T> {
    fn run(self) {
        match self {
            Job::Call(task) => task.run(),
            // The thread is needed, whatever comes of it.
            Job::Drop(thing) => drop(catch_unwind(AssertUnwindSafe(|| drop(thing)))),
        }
    }
}

impl<T: Send + 'static> Task<T> {
    /// Puts the call, whose stage says so already, in the queue.
    fn enqueue(self: &Arc<Self>) {
        self.lane.enqueue(self.handler, Job::Call(Arc::clone(self)));
    }

    /// Gives the call a turn, unless it was taken back or dropped meanwhile.
    fn run(self: Arc<Self>) {
        let mut place = lock(&self.place);
        let mut call = match mem::replace(&mut place.stage, Stage::Gone) {
            Stage::Queued(call) => call,
            other => {
                place.stage = other;
                return;
            }
        };
        place.stage = Stage::Running { wants_more: false, wanted_back: false };
        drop(place);

        let waker = Waker::from(Arc::clone(&self));
        let _runtime = self.runtime.enter();
        let mut poll = || call.as_mut().poll(&mut Context::from_waker(&waker));
        let polled = catch_unwind(AssertUnwindSafe(|| dispatcher::with_default(&self.log, &mut poll)));
        self.after(call, polled);
    }

    fn after(self: &Arc<Self>, call: Call<T>, polled: thread::Result<Poll<T>>) {
        let mut place = lock(&self.place);
        let Stage::Running { wants_more, wanted_back } = place.stage else {
            // Dropped by its owner: it is dropped here, where it ran.
            drop(place);
            drop(call);
            return;
        };
        let ended = match polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(value)) => Some(Ok(value)),
            Err(panic) => Some(Err(panic)),
        };
        let has_ended = ended.is_some();
        let again = wants_more && !wanted_back && !has_ended;
        place.stage = match ended {
            Some(ended) => Stage::Ended(ended),
            None if again => Stage::Queued(call),
            None => Stage::Waiting(call),
        };
        let owner = if has_ended || wanted_back { place.owner.take() } else { None };
        drop(place);
        if again {
            self.enqueue();
        }
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

impl<T: Send + 'static> Wake for Task<T> {
    fn wake(self: Arc<Self>) {
        let mut place = lock(&self.place);
        match mem::replace(&mut place.stage, Stage::Gone) {
            Stage::Waiting(call) => {
                place.stage = Stage::Queued(call);
                drop(place);
                self.enqueue();
            }
            Stage::Running { wanted_back, .. } => place.stage = Stage::Running { wants_more: true, wanted_back },
            other => place.stage = other,
        }
    }
}

impl<T: Send + 'static> Handed<T> {
    /// Waits until the call has ended. If it panicked, so does this.
    pub(super) async fn ended(&mut self) -> T {
        poll_fn(|context| self.poll_ended(context)).await
    }

    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<T> {
        let mut place = lock(&self.0.place);
        if matches!(place.stage, Stage::Ended(_)) {
            let stage = mem::replace(&mut place.stage, Stage::Gone);
            drop(place);
            return match stage {
                Stage::Ended(Ok(value)) => Poll::Ready(value),
                Stage::Ended(Err(panic)) => resume_unwind(panic),
                _ => Poll::Pending,
            };
        }
        place.owner = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes the call back, after its turn if it has one.
    pub(super) async fn take_back(mut self) -> Taken<T> {
        poll_fn(|context| {
            if let Poll::Ready(value) = self.poll_ended(context) {
                return Poll::Ready(Taken::Ended(value));
            }
            let mut place = lock(&self.0.place);
            match mem::replace(&mut place.stage, Stage::Gone) {
                Stage::Queued(call) => {
                    drop(place);
                    leave_queue(&self.0);
                    Poll::Ready(Taken::Back(call))
                }
                Stage::Waiting(call) => Poll::Ready(Taken::Back(call)),
                Stage::Running { wants_more, .. } => {
                    place.stage = Stage::Running { wants_more, wanted_back: true };
                    Poll::Pending
                }
                // It has ended in between, and has woken this.
                other => {
                    place.stage = other;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        self.0.lane.calls.fetch_sub(1, Ordering::Relaxed);
        let stage = mem::replace(&mut lock(&self.0.place).stage, Stage::Gone);
        if matches!(stage, Stage::Queued(_)) {
            leave_queue(&self.0);
        }
    }
}

/// Takes a call out of the queue whose stage says so already.
fn leave_queue<T>(task: &Arc<Task<T>>) {
    let left = lock(&task.lane.queue)
        .turns
        .give_up(task.handler, |job| matches!(job, Job::Call(other) if Arc::ptr_eq(other, task)));
    drop(left);
}

/// Nothing here panics while it holds a lock, so that what is behind it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) mod priority;
mod spare;
#[cfg(test)]
mod tests;
