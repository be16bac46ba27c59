use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;

use super::{Call, Handed, Lane, Shared, Taken};

/// A call that takes so many turns and then ends, noting each turn.
fn busy(turns: usize, mut note: impl FnMut() + Send + 'static) -> Call<usize> {
    let mut had = 0;
    Box::pin(poll_fn(move |context| {
        note();
        had += 1;
        if had == turns {
            return Poll::Ready(had);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }))
}

/// A lane of one spare thread alone, which takes turns also where others want its processor.
fn single() -> Lane<usize> {
    let lane = Lane::without_threads();
    lane.add_thread("spare", |shared| shared.work_while(|_| true)).expect("a thread");
    lane
}

/// The same, and it does nothing until the sender is dropped.
fn held() -> (Lane<usize>, Handed<usize>, mpsc::Sender<()>) {
    let lane = single();
    let (release, held) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let holder = lane.hand_over(
        0,
        Box::pin(async move {
            begun.send(()).expect("somebody waits for it");
            held.recv().expect_err("nothing is sent");
            0
        }),
    );
    has_begun.recv().expect("it has begun");
    (lane, holder, release)
}

/// Counts how often it was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn many_calls_of_one_handler_have_as_many_turns_as_one_of_another() {
    let (lane, holder, release) = held();
    let log = Arc::new(Mutex::new(Vec::new()));
    let call = |handler: u64, turns| {
        let log = Arc::clone(&log);
        lane.hand_over(handler, busy(turns, move || log.lock().expect("no test panics").push(handler)))
    };
    let many: Vec<_> = (0..16).map(|_| call(1, 50)).collect();
    let mut one = call(2, 100);
    drop(release);
    assert_eq!(one.ended().await, 100);
    let log = log.lock().expect("no test panics").clone();
    let last = log.iter().rposition(|handler| *handler == 2).expect("it had turns");
    for end in 0..=last {
        let of = |handler: u64| log[..end].iter().filter(|one| **one == handler).count();
        assert!(of(1).abs_diff(of(2)) <= 1, "{} and {} of the first {end} turns", of(1), of(2));
    }
    drop((many, holder));
}

#[tokio::test]
async fn calls_get_on_while_the_spare_threads_do_not() {
    let (lane, holder, release) = held();
    lane.add_thread("sure", Shared::work_surely).expect("a thread");
    for turns in [1, 100] {
        assert_eq!(lane.hand_over(1, busy(turns, || ())).ended().await, turns);
    }
    assert_eq!(super::lock(&lane.0.queue).spare_turns, 1, "only that which does not end");
    drop((release, holder));
}

#[tokio::test]
async fn a_spare_thread_takes_no_turn_that_it_may_not() {
    let lane = Lane::without_threads();
    let refusing = |shared: &Shared<usize>| {
        shared.work_while(|_| {
            std::thread::sleep(Duration::from_millis(1));
            false
        });
    };
    lane.add_thread("spare", refusing).expect("a thread");
    lane.add_thread("sure", Shared::work_surely).expect("a thread");
    assert_eq!(lane.hand_over(1, busy(100, || ())).ended().await, 100);
    assert_eq!(super::lock(&lane.0.queue).spare_turns, 0);
}

#[tokio::test]
async fn it_is_known_how_many_calls_there_are() {
    let (lane, holder, release) = held();
    let calls = || lane.calls().load(Ordering::SeqCst);
    let mut queued = lane.hand_over(1, busy(1, || ()));
    let dropped = lane.hand_over(1, busy(1, || ()));
    assert_eq!(calls(), 3);
    drop(dropped);
    drop(release);
    queued.ended().await;
    drop(queued);
    assert!(matches!(holder.take_back().await, Taken::Ended(0)));
    assert_eq!(calls(), 0);
}

#[tokio::test]
async fn a_call_that_waits_for_something_else_leaves_its_turn_to_others() {
    let lane = Lane::start(1).expect("a thread");
    let waiting: Vec<_> = (0..100).map(|handler| lane.hand_over(handler, Box::pin(pending()))).collect();
    assert_eq!(lane.hand_over(7, busy(10, || ())).ended().await, 10);
    drop(waiting);
}

#[tokio::test]
async fn no_wake_up_is_lost() {
    let lane = Lane::start(2).expect("threads");
    let mut handed = Vec::new();
    for number in 0..200 {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..20).map(|_| oneshot::channel::<()>()).unzip();
        std::thread::spawn(move || senders.into_iter().for_each(|sender| sender.send(()).unwrap_or(())));
        let call = async move {
            for receiver in receivers {
                receiver.await.expect("it is sent");
            }
            number
        };
        handed.push(lane.hand_over(u64::try_from(number % 3).expect("it is small"), Box::pin(call)));
    }
    for (number, mut handed) in handed.into_iter().enumerate() {
        assert_eq!(handed.ended().await, number);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_is_gone_at_once() {
    let (lane, holder, release) = held();
    let drops = Arc::new(AtomicUsize::new(0));
    let token = Dropped(Arc::clone(&drops));
    let queued = lane.hand_over(1, Box::pin(async move { drop(token) }.map(|()| 1)));
    drop(queued);
    assert_eq!(drops.load(Ordering::SeqCst), 1, "it never had a turn, and is gone");
    assert!(super::lock(&lane.0.queue).turns.is_empty());
    drop(release);
    drop(holder);
}

#[tokio::test]
async fn a_call_that_is_dropped_during_its_turn_gets_no_other() {
    let lane = Lane::start(1).expect("a thread");
    let turns = Arc::new(AtomicUsize::new(0));
    let (begun, has_begun) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let (ended, has_ended) = oneshot::channel::<()>();
    let count = Arc::clone(&turns);
    let call = busy(10, move || {
        let _gone_with_the_call = &ended;
        count.fetch_add(1, Ordering::SeqCst);
        begun.send(()).expect("somebody waits for it");
        held.recv().expect_err("nothing is sent");
    });
    let handed = lane.hand_over(1, call);
    has_begun.recv().expect("it has begun");
    drop(handed);
    drop(release);
    has_ended.await.expect_err("it is dropped with the call");
    assert_eq!(turns.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_panic_reaches_who_waits_and_the_thread_goes_on() {
    let lane: Lane<usize> = Lane::start(1).expect("a thread");
    let mut panics = lane.hand_over(1, Box::pin(async { panic!("as asked for") }));
    let panicked = tokio::spawn(async move { panics.ended().await }).await.expect_err("it panicked");
    assert!(panicked.is_panic());
    assert_eq!(lane.hand_over(1, busy(3, || ())).ended().await, 3);
}

#[tokio::test]
async fn a_call_is_taken_back_from_wherever_it_is() {
    let (lane, holder, release) = held();
    let queued = lane.hand_over(1, busy(5, || ()));
    let Taken::Back(call) = queued.take_back().await else { panic!("it had no turn") };
    assert_eq!(call.await, 5, "it goes on where it was");

    // The holder is in its turn, and ends with it.
    let mut taking = Box::pin(holder.take_back());
    assert!(taking.as_mut().now_or_never().is_none());
    drop(release);
    assert!(matches!(taking.await, Taken::Ended(0)));

    let (send, received) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let waiting = lane.hand_over(
        1,
        Box::pin(async move {
            begun.send(()).expect("somebody waits for it");
            received.await.map_or(0, |()| 8)
        }),
    );
    has_begun.await.expect("it has begun");
    let Taken::Back(call) = waiting.take_back().await else { panic!("it cannot have ended") };
    send.send(()).expect("it waits for this");
    assert_eq!(call.await, 8);
}

#[tokio::test]
async fn a_call_that_is_computing_is_taken_back_after_its_turn() {
    let lane = single();
    let (begun, has_begun) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let mut turns = 0;
    let call = busy(3, move || {
        turns += 1;
        if turns == 1 {
            begun.send(()).expect("somebody waits for it");
            held.recv().expect_err("nothing is sent");
        }
    });
    let handed = lane.hand_over(1, call);
    has_begun.recv().expect("it has begun");
    let mut taking = Box::pin(handed.take_back());
    assert!(taking.as_mut().now_or_never().is_none());
    drop(release);
    let Taken::Back(call) = taking.await else { panic!("it had but one turn") };
    assert_eq!(call.await, 3);
}
