//! Deliveries that wait for slots: who goes first, and what becomes of them at a stop.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::*;
use crate::status::HandlerStatus;
use crate::worker::{Line, Version, Worker};

/// A worker of a handler whose calls take 100 ms, and the stop of its process.
struct Site {
    worker: Arc<Worker<ScriptedBroker, ScriptedInvoker>>,
    version: Arc<Version<ScriptedBroker, ScriptedInvoker>>,
    in_flight: TaskTracker,
}

fn site(policy: &str, outcomes: Vec<Outcome>) -> Site {
    let mut scene = scene(policy, outcomes, vec![]);
    scene.pipeline.invoker.takes = Duration::from_millis(100);
    let version = Arc::new(Version { pipeline: scene.pipeline, tally: Arc::default() });
    let line = Line { steady: Arc::clone(&version), trial: None };
    let in_flight = TaskTracker::new();
    in_flight.close();
    let worker = Worker::new(line, Arc::new(HandlerStatus::default()), in_flight.clone(), None);
    Site { worker, version, in_flight }
}

impl Site {
    fn start(&self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            let message = Message { subject: "in.x".into(), headers: Vec::new(), payload: "p".into(), damage: None };
            let stream = "IN".to_owned();
            let position = Position { stream, stream_created_unix: 1, sequence, stored_ms: 5, delivered: 1 };
            Worker::start(&self.worker, Delivery { message, position, source: Source::Input, receipt: () });
        }
    }

    /// The sequences of the events that were begun, in order.
    fn begun(&self) -> Vec<u64> {
        let seen = self.version.pipeline.invoker.seen.lock().expect("not poisoned");
        seen.iter()
            .map(|event| event.id.rsplit(':').next().and_then(|text| text.parse().ok()).expect("a place"))
            .collect()
    }

    fn settled(&self) -> Vec<Settlement> {
        let told = self.version.pipeline.broker.told.lock().expect("not poisoned");
        told.iter()
            .filter_map(|told| if let Told::Settle(settlement) = told { Some(settlement.clone()) } else { None })
            .collect()
    }
}

fn done(count: usize) -> Vec<Outcome> {
    std::iter::repeat_with(|| Outcome::Completed(Vec::new())).take(count).collect()
}

#[tokio::test(start_paused = true)]
async fn as_many_run_as_there_are_slots_and_the_others_in_turn() {
    let site = site("concurrency = 2", done(7));
    site.start(1..=7);
    for expected in [2, 4, 6, 7] {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(site.begun(), (1..=expected).collect::<Vec<_>>());
        sleep(Duration::from_millis(50)).await;
    }
    site.in_flight.wait().await;
    assert_eq!(site.settled(), vec![Settlement::Ack; 7]);
    site.start(1..=1);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(site.begun().len(), 8, "the slots are free again");
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_a_stop_is_handed_back_and_not_begun() {
    let site = site("concurrency = 1", done(3));
    site.start(1..=3);
    sleep(Duration::from_millis(50)).await;
    site.version.pipeline.stop.requested.cancel();
    site.start(4..=4);
    site.in_flight.wait().await;
    assert_eq!(site.begun(), [1]);
    let back = Settlement::Nak { delay: Duration::ZERO };
    assert_eq!(site.settled(), [back.clone(), back.clone(), back, Settlement::Ack]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_retry_lets_others_run_and_is_passed_over_once_at_most() {
    let policy = "concurrency = 1\nretry = { initial = \"50ms\", jitter = 0.0, in_memory = \"1s\" }";
    let outcomes = [vec![retry()], done(5)].concat();
    let site = site(policy, outcomes);
    site.start(1..=5);
    site.in_flight.wait().await;
    assert_eq!(site.begun(), [1, 2, 3, 1, 4, 5], "the third has waited for longer when the first wants to go on");
}
