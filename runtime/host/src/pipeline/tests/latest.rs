//! `order.by = "latest"`: what is looked at, entered and left, and who waits for whom.

use tidemill_policy::latest::{Newest, Seen};

use super::*;

const LATEST: &str = "order = { by = \"latest\", key = \"subject:2\", time = \"header:At\" }";

impl Scene {
    /// Another instance, with the same broker.
    fn other(&self, outcomes: Vec<Outcome>) -> Scene {
        let pipeline = Pipeline {
            handler: Arc::clone(&self.pipeline.handler),
            invoker: ScriptedInvoker {
                outcomes: Mutex::new(outcomes.into()),
                seen: Mutex::default(),
                takes: Duration::ZERO,
            },
            schemas: Arc::default(),
            broker: Arc::clone(&self.pipeline.broker),
            prefix: "tidemill".into(),
            instance: "i2".into(),
            component: "digest".into(),
            clock: self.pipeline.clock,
            stop: self.pipeline.stop.clone(),
            recent: Arc::default(),
            gate: Gate::new(Arc::clone(&self.pipeline.handler), self.pipeline.clock),
        };
        Scene { pipeline }
    }

    /// Delivers an event of this time; returns what was told since, and the fate.
    async fn at(&self, id: &str, at: &str, delivered: u32) -> (String, Fate) {
        let before = self.told().len();
        let headers = [(headers::MSG_ID, id), ("At", at)];
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let message = Message { subject: "in.x".into(), headers, payload: "hello".into(), damage: None };
        let position = Position { stream: "IN".into(), stream_created_unix: 1, sequence: 7, stored_ms: 5, delivered };
        let taken = self.pipeline.take(Delivery { message, position, source: Source::Input, receipt: () });
        let slot = crate::slots::Slots::new(1).take().await;
        let (fate, _) = self.pipeline.handle(taken, slot).await;
        (summary(&self.told()[before..]), fate)
    }

    /// Has something remembered of the key, as if another instance had.
    fn set(&self, processed: Option<Seen>, entered: Option<Seen>) {
        let mut markers = self.pipeline.broker.markers.lock().expect("not poisoned");
        let key = tidemill_policy::id::newest("h", "x");
        let revision = markers.get(&key).map_or(0, |(_, revision)| *revision) + 1;
        markers.insert(key, (Marker::Newest(Newest { processed, entered }), revision));
    }

    /// What is remembered of the only key.
    fn newest(&self) -> Newest {
        let markers = self.pipeline.broker.markers.lock().expect("not poisoned");
        let mut found = markers.values().filter_map(|(marker, _)| match marker {
            Marker::Newest(newest) => Some(newest.clone()),
            _ => None,
        });
        found.next().unwrap_or_default()
    }
}

/// An event of another message.
fn seen(event: &str, seconds: i64) -> Seen {
    Seen { time_ns: seconds * 1_000_000_000, stored_ms: 5, sequence: 8, event: event.into() }
}

fn done() -> Outcome {
    Outcome::Completed(vec![output("out.a")])
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_newest_processed_is_discarded_unrun_and_counted() {
    let scene = scene(LATEST, vec![done(); 9], vec![]);
    assert_eq!(scene.at("new", "20", 1).await.0, "enter | out.a | leave | ack");
    let (told, fate) = scene.at("old", "10", 1).await;
    assert_eq!((told.as_str(), scene.invocations()), ("ack", 1));
    assert!(matches!(&fate.what, What::Stale { why } if why.contains("1970-01-01T00:00:20.000Z")), "{fate:?}");
    let counters = fate::Counters::default();
    counters.record(&fate);
    assert_eq!((counters.counts().stale, counters.counts().handled), (1, 0));
    // The same event again is not stale, and neither is a newer one.
    assert_eq!(scene.at("new", "20", 2).await.0, "begin | enter | out.a | leave | done | ack");
    assert_eq!(scene.at("newer", "30", 1).await.0, "enter | out.a | leave | ack");

    let kept = LATEST.replace('}', ", on_stale = \"dead-letter\" }");
    let scene = super::scene(&kept, vec![done()], vec![]);
    scene.at("new", "20", 1).await;
    assert_eq!(scene.at("old", "10", 1).await.0, "record | tidemill.deadletter.h | dead | term stale");
}

#[tokio::test(start_paused = true)]
async fn an_event_without_its_time_is_dead_lettered_or_run_without_order() {
    let scene_ = scene(LATEST, vec![done()], vec![]);
    check(&scene_.deliver_first().await, "record | tidemill.deadletter.h | dead | term undecodable");
    assert_eq!(scene_.invocations(), 0);
    let lenient = LATEST.replace('}', ", on_missing = \"run\" }");
    check(&scene(&lenient, vec![done()], vec![]).deliver_first().await, "out.a | ack");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_does_not_advance_the_time() {
    let denied = PublishError::Denied { subject: "out.a".into(), why: "permissions".into() };
    for (outcome, refusals, expected) in [
        (reject(), vec![], "record | tidemill.deadletter.h | dead | term reject"),
        (done(), vec![denied], "enter | out.a refused | leave | record | tidemill.deadletter.h | dead | term denied"),
    ] {
        let scene = scene(LATEST, vec![outcome, done()], refusals);
        assert_eq!(scene.at("new", "20", 1).await.0, expected);
        assert_eq!(scene.newest(), Newest::default());
        assert_eq!(scene.at("old", "10", 1).await.0, "enter | out.a | leave | ack");
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_dropped_where_a_newer_one_was_processed_during_the_run() {
    let mut old = scene(LATEST, vec![done()], vec![]);
    old.pipeline.invoker.takes = Duration::from_secs(1);
    let new = old.other(vec![done()]);
    let ((told, fate), _) = tokio::join!(old.at("old", "10", 1), async {
        sleep(Duration::from_millis(500)).await;
        new.at("new", "20", 1).await
    });
    assert_eq!((told.as_str(), old.invocations()), ("enter | out.a | leave | ack | ack", 1));
    assert!(matches!(fate.what, What::Stale { .. }), "{fate:?}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_another_publishes_waits_for_its_end() {
    for (id, at, expected) in [("older", "10", "ack"), ("newer", "30", "enter | out.a | leave | ack")] {
        let scene = scene(LATEST, vec![done()], vec![]);
        scene.set(None, Some(seen("other", 20)));
        let ((told, _), ()) = tokio::join!(scene.at(id, at, 1), async {
            sleep(Duration::from_secs(20)).await;
            assert_eq!(summary(&scene.told()), "", "{id} does not wait");
            scene.set(Some(seen("other", 20)), None);
        });
        assert_eq!(told, expected, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_its_holder_left_behind_is_taken_over() {
    // By a newer event, when it has not changed for long.
    let scene_ = scene(LATEST, vec![done()], vec![]);
    scene_.set(None, Some(seen("other", 20)));
    let since = Instant::now();
    assert_eq!(scene_.at("newer", "30", 1).await.0, "enter | out.a | leave | ack");
    assert!(since.elapsed() >= tidemill_policy::latest::patience(&scene_.pipeline.handler));

    // Never by an older one, since the other may have published.
    let scene_ = scene(LATEST, vec![done()], vec![]);
    scene_.set(None, Some(seen("other", 20)));
    let (told, fate) = scene_.at("older", "10", 1).await;
    assert_eq!(told, "record | retry | ack");
    assert!(matches!(&fate.what, What::Retried { error, .. } if error.kind == Kind::Stale), "{fate:?}");

    // By the same event at once.
    let scene_ = scene(LATEST, vec![done(); 2], vec![]);
    assert_eq!(scene_.at("same", "20", 1).await.0, "enter | out.a | leave | ack");
    let processed = scene_.newest().processed;
    scene_.set(None, processed);
    let since = Instant::now();
    assert_eq!(scene_.at("same", "20", 2).await.0, "begin | enter | out.a | leave | done | ack");
    assert!(since.elapsed().is_zero());

    // It is withdrawn when the same event is given up.
    let scene_ = scene(LATEST, vec![done(), reject()], vec![]);
    scene_.at("same", "20", 1).await;
    let processed = scene_.newest().processed;
    scene_.set(None, processed);
    let (told, _) = scene_.at("same", "20", 2).await;
    assert_eq!(told, "begin | record | tidemill.deadletter.h | leave | dead | term reject");
    assert_eq!(scene_.newest(), Newest::default());
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_renewed_before_each_try_to_publish() {
    let scene = scene(LATEST, vec![done()], vec![unavailable(), unavailable()]);
    let (told, _) = scene.at("new", "20", 1).await;
    assert_eq!(told, "enter | out.a refused | enter | out.a refused | enter | out.a | leave | ack");
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_do_not_publish_at_once_in_a_process() {
    let scene = scene(LATEST, vec![done(); 2], vec![unavailable(); 3]);
    tokio::join!(scene.at("old", "10", 1), scene.at("new", "20", 1));
    let told = summary(&scene.told());
    let first = "enter | out.a refused | enter | out.a refused | enter | out.a refused | enter | out.a | leave | ";
    assert_eq!(told, format!("{first}ack | enter | out.a | leave | ack"));
}
