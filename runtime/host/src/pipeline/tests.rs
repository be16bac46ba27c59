//! The pipeline against a scripted broker and a scripted handler, with time paused: what is stored and how
//! the delivery is settled, in which order, for every kind of outcome and refusal.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tidemill_policy::arrival::{Message, Position};
use tidemill_policy::budget::Usage;
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::id::Token;
use tidemill_policy::manifest::{self, AckMode, Source as ManifestSource};
use tidemill_policy::marker::{Carrier, Progress, Run};
use tidemill_policy::outcome::{HandlerError, Interruption};
use tidemill_policy::publication::RetryClock;

mod latest;
mod queue;

use super::*;
use crate::broker::{MarkerError, Recalled, Stored};
use crate::slots::Slots;

/// What the broker was told, in order.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    /// A batch was offered; whether it was stored.
    Publish(Vec<Publication>, bool),
    /// The same, to be stored at one moment.
    PublishTogether(Vec<Publication>, bool),
    /// A marker was replaced.
    Remember(Marker),
    Settle(Settlement),
}

#[derive(Default)]
struct ScriptedBroker {
    refusals: Mutex<VecDeque<PublishError>>,
    /// Markers with their revisions.
    markers: Mutex<HashMap<String, (Marker, u64)>>,
    recalls: Mutex<usize>,
    told: Mutex<Vec<Told>>,
    /// The id of an output that is stored.
    known: Mutex<Option<String>>,
    /// Whether nothing has an event any more that something else was to carry on.
    is_bare: Mutex<bool>,
    /// The most bytes that a message may have, where there is a limit.
    bytes_max: Mutex<Option<usize>>,
}

impl Broker for ScriptedBroker {
    type Receipt = ();

    async fn publish(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        let refusal = self.refusals.lock().expect("not poisoned").pop_front();
        self.told.lock().expect("not poisoned").push(Told::Publish(batch.to_vec(), refusal.is_none()));
        refusal.map_or(Ok(Published::default()), Err)
    }

    async fn publish_together(&self, batch: &[Publication]) -> Result<Published, PublishError> {
        let refusal = self.refusals.lock().expect("not poisoned").pop_front();
        self.told.lock().expect("not poisoned").push(Told::PublishTogether(batch.to_vec(), refusal.is_none()));
        refusal.map_or(Ok(Published::default()), Err)
    }

    async fn carries(&self, _: &str, _: &Token, carriers: &[Carrier]) -> Result<bool, MarkerError> {
        assert!(!carriers.is_empty());
        Ok(!*self.is_bare.lock().expect("not poisoned"))
    }

    fn has_legacy_markers(&self, _: &Handler) -> bool {
        false
    }

    async fn knows(&self, patterns: &[String], id: &str) -> Result<bool, PublishError> {
        assert_eq!(patterns, ["out.>"]);
        Ok(self.known.lock().expect("not poisoned").as_deref() == Some(id))
    }

    async fn settle(&self, (): (), settlement: Settlement, _ack: AckMode) {
        self.told.lock().expect("not poisoned").push(Told::Settle(settlement));
    }

    async fn recall(&self, key: &str) -> Result<Recalled, MarkerError> {
        *self.recalls.lock().expect("not poisoned") += 1;
        let found = self.markers.lock().expect("not poisoned").get(key).cloned();
        Ok(found.map_or_else(Recalled::default, |(marker, revision)| Recalled { marker: Some(marker), revision }))
    }

    async fn remember(&self, key: &str, marker: &Marker, _: Duration, revision: u64) -> Result<u64, MarkerError> {
        let mut markers = self.markers.lock().expect("not poisoned");
        if markers.get(key).map_or(0, |(_, revision)| *revision) != revision {
            return Err(MarkerError::Conflict);
        }
        markers.insert(key.to_owned(), (marker.clone(), revision + 1));
        self.told.lock().expect("not poisoned").push(Told::Remember(marker.clone()));
        Ok(revision + 1)
    }

    async fn lapsed(&self, (): &()) {
        std::future::pending::<()>().await;
    }

    async fn read_record(&self, _: &str) -> Result<Stored, MarkerError> {
        Ok(Stored::default())
    }

    async fn replace_record(&self, _: &str, _: bytes::Bytes, _: Duration, _: u64) -> Result<u64, MarkerError> {
        Err(MarkerError::Conflict)
    }

    async fn pause(&self, _: &[(String, String)], _: Option<u64>) -> Result<(), String> {
        Ok(())
    }

    async fn message_bytes_max(&self, _: &str) -> usize {
        self.bytes_max.lock().expect("not poisoned").unwrap_or(usize::MAX)
    }

    fn retry_clock(&self) -> RetryClock {
        RetryClock::Schedules
    }

    fn message_ttl(&self) -> bool {
        true
    }
}

/// Returns the outcomes one after the other, and hangs where there is none left.
struct ScriptedInvoker {
    outcomes: Mutex<VecDeque<Outcome>>,
    seen: Mutex<Vec<Event>>,
    takes: Duration,
}

impl Invoker for ScriptedInvoker {
    async fn invoke(&self, event: Arc<Event>) -> Report {
        self.seen.lock().expect("not poisoned").push(Event::clone(&event));
        sleep(self.takes).await;
        let next = self.outcomes.lock().expect("not poisoned").pop_front();
        let Some(outcome) = next else { return std::future::pending().await };
        Report { outcome, usage: Usage::default(), seed: [7; 32], clock_ms: 1 }
    }
}

struct Scene {
    pipeline: Pipeline<ScriptedBroker, ScriptedInvoker>,
}

const START_MS: u64 = 1_800_000_000_000;

fn scene(policy: &str, outcomes: Vec<Outcome>, refusals: Vec<PublishError>) -> Scene {
    let text = format!("[handler.h]\nsubject = \"in.>\"\nallow = {{ publish = [\"out.>\"] }}\n{policy}\n");
    let source = ManifestSource { path: "tidemill.toml", text: &text };
    let mut parsed = manifest::parse(source, &[], &|_| None).expect("a valid manifest").manifest;
    let broker = ScriptedBroker { refusals: Mutex::new(refusals.into()), ..ScriptedBroker::default() };
    let handler = Arc::new(parsed.handlers.remove("h").expect("handler h"));
    let clock = Clock::Tokio { start_ms: START_MS, start: Instant::now() };
    let pipeline = Pipeline {
        gate: Gate::new(Arc::clone(&handler), clock),
        handler,
        invoker: ScriptedInvoker {
            outcomes: Mutex::new(outcomes.into()),
            seen: Mutex::default(),
            takes: Duration::ZERO,
        },
        schemas: Arc::default(),
        broker: Arc::new(broker),
        prefix: "tidemill".into(),
        instance: "i1".into(),
        component: "digest".into(),
        clock,
        stop: Stop { requested: CancellationToken::new(), overdue: CancellationToken::new() },
        recent: Arc::default(),
    };
    Scene { pipeline }
}

impl Scene {
    async fn deliver(&self, headers: &[(&str, &str)], source: Source, delivered: u32) -> Vec<Told> {
        self.deliver_stored_at(5, headers, source, delivered).await
    }

    async fn deliver_stored_at(
        &self,
        stored_ms: u64,
        headers: &[(&str, &str)],
        source: Source,
        delivered: u32,
    ) -> Vec<Told> {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let message = Message { subject: "in.x".into(), headers, payload: "hello".into(), damage: None };
        let position = Position { stream: "IN".into(), stream_created_unix: 1, sequence: 7, stored_ms, delivered };
        let taken = self.pipeline.take(Delivery { message, position, source, receipt: () });
        let slot = Slots::new(1).take().await;
        self.pipeline.handle(taken, slot).await;
        self.told()
    }

    async fn deliver_first(&self) -> Vec<Told> {
        self.deliver(&[], Source::Input, 1).await
    }

    fn told(&self) -> Vec<Told> {
        self.pipeline.broker.told.lock().expect("not poisoned").clone()
    }

    fn invocations(&self) -> usize {
        self.pipeline.invoker.seen.lock().expect("not poisoned").len()
    }
}

fn output(subject: &str) -> Output {
    let (kind, content_type) = (None, None);
    Output { subject: subject.into(), kind, content_type, headers: Vec::new(), payload: "data".into() }
}

fn retry() -> Outcome {
    Outcome::Retry { error: HandlerError { message: "later".into(), ..HandlerError::default() }, delay: None }
}

fn reject() -> Outcome {
    Outcome::Rejected(HandlerError { message: "never".into(), ..HandlerError::default() })
}

fn unavailable() -> PublishError {
    PublishError::Unavailable { subject: "s".into(), why: "no connection".into() }
}

/// The stored batches' subjects, the markers and the settlement, as text: `out.a out.b | done | ack`. In brackets:
/// what is stored together.
fn summary(told: &[Told]) -> String {
    let mut parts = Vec::new();
    for told in told {
        parts.push(match told {
            Told::Publish(batch, stored) => subjects(batch, *stored),
            Told::PublishTogether(batch, stored) => format!("[{}]", subjects(batch, *stored)),
            Told::Remember(Marker::Done { .. }) => "done".into(),
            Told::Remember(Marker::Dead { .. }) => "dead".into(),
            Told::Remember(Marker::Released) => "released".to_owned(),
            Told::Remember(Marker::Parked(_)) => "park".to_owned(),
            Told::Remember(Marker::Claimed { .. }) => "claim".into(),
            Told::Remember(Marker::Open(progress)) if progress.next == Next::End => "begin".into(),
            Told::Remember(Marker::Open(_)) => "record".into(),
            Told::Remember(Marker::Newest(newest)) if newest.entered.is_some() => "enter".into(),
            Told::Remember(Marker::Newest(_)) => "leave".into(),
            Told::Settle(Settlement::Ack) => "ack".into(),
            Told::Settle(Settlement::Nothing) => "nothing".into(),
            Told::Settle(Settlement::Nak { delay }) => format!("nak {} ms", delay.as_millis()),
            Told::Settle(Settlement::Term { reason }) => {
                format!("term {}", reason.split(':').next().unwrap_or_default())
            }
        });
    }
    parts.join(" | ")
}

fn subjects(batch: &[Publication], stored: bool) -> String {
    let subjects: Vec<_> = batch.iter().map(|message| short(&message.subject)).collect();
    format!("{}{}", subjects.join(" "), if stored { "" } else { " refused" })
}

/// A retry's subject ends in a hash.
fn short(subject: &str) -> &str {
    if subject.starts_with("tidemill.retry.at.h.") { "retry" } else { subject }
}

#[track_caller]
fn check(told: &[Told], expected: &str) {
    assert_eq!(summary(told), expected);
}

fn last_history(told: &[Told]) -> Vec<AttemptError> {
    let batch = told.iter().rev().find_map(|told| match told {
        Told::Publish(batch, true) => Some(batch),
        _ => None,
    });
    let json = batch.and_then(|batch| headers::get(&batch[0].headers, headers::ERRORS)).expect("a history");
    serde_json::from_str(json).expect("valid history")
}

#[tokio::test(start_paused = true)]
async fn every_outcome_is_stored_before_the_delivery_is_settled() {
    let interruption = Interruption::default;
    let rows: Vec<(Outcome, &str)> = vec![
        (Outcome::Completed(vec![output("out.a"), output("out.b")]), "out.a out.b | ack"),
        (Outcome::Completed(vec![]), " | ack"),
        (retry(), "record | retry | ack"),
        (Outcome::TimedOut(interruption()), "record | retry | ack"),
        (Outcome::OutOfFuel(interruption()), "record | retry | ack"),
        (Outcome::OutOfMemory(interruption()), "record | retry | ack"),
        (Outcome::Trapped(interruption()), "record | retry | ack"),
        (reject(), "record | tidemill.deadletter.h | dead | term reject"),
        (Outcome::Completed(vec![output("secret")]), "record | tidemill.deadletter.h | dead | term output"),
        (Outcome::OutputRefused { message: "too many".into() }, "record | tidemill.deadletter.h | dead | term output"),
    ];
    for (outcome, expected) in rows {
        let label = format!("{outcome:?}");
        let told = scene("", vec![outcome], vec![]).deliver_first().await;
        assert_eq!(summary(&told), expected, "{label}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_broker_costs_time_but_no_attempt() {
    let scene = scene("", vec![Outcome::Completed(vec![output("out.a")])], vec![unavailable(), unavailable()]);
    check(&scene.deliver_first().await, "out.a refused | out.a refused | out.a | ack");
    assert_eq!(scene.invocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_output_without_a_stream_is_a_failed_attempt_and_not_an_ack() {
    let no_stream = PublishError::NoStream { subject: "out.a".into() };
    let scene = scene("", vec![Outcome::Completed(vec![output("out.a")])], vec![no_stream.clone()]);
    let told = scene.deliver_first().await;
    check(&told, "out.a refused | record | retry | ack");
    assert_eq!(last_history(&told)[0].kind, Kind::Output);
    assert_eq!(last_history(&told)[0].message, no_stream.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_denied_output_is_dead_lettered_at_once() {
    let denied = PublishError::Denied { subject: "out.a".into(), why: "permissions".into() };
    let told = scene("", vec![Outcome::Completed(vec![output("out.a")])], vec![denied]).deliver_first().await;
    check(&told, "out.a refused | record | tidemill.deadletter.h | dead | term denied");
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_leads_to_the_dead_letters_with_the_whole_history() {
    let scene = scene("retry = { max_attempts = 1 }", vec![retry()], vec![]);
    let told = scene.deliver_first().await;
    check(&told, "record | tidemill.deadletter.h | dead | term retry");
    let history = last_history(&told);
    assert_eq!((history.len(), history[0].attempt, history[0].message.as_str()), (1, 1, "later"));
}

#[tokio::test(start_paused = true)]
async fn what_was_attempted_too_often_or_cannot_be_read_is_not_run() {
    let scene_ = scene("retry = { max_attempts = 2 }", vec![], vec![]);
    let third = [
        (headers::EVENT_ID, "e1"),
        (headers::ATTEMPT, "3"),
        (headers::ERRORS, "[]"),
        (headers::ORIGIN_SUBJECT, "in.x"),
    ];
    check(&scene_.deliver(&third, Source::Retry, 1).await, "record | tidemill.deadletter.h | dead | term attempts");
    assert_eq!(scene_.invocations(), 0);

    let scene_ = scene("limits = { payload = \"4B\" }", vec![], vec![]);
    check(&scene_.deliver_first().await, "record | tidemill.deadletter.h | dead | term payload");
    assert_eq!(scene_.invocations(), 0);

    let scene_ = scene("format = \"queue\"", vec![], vec![]);
    check(&scene_.deliver_first().await, "record | tidemill.deadletter.h | dead | term undecodable");
    assert_eq!(scene_.invocations(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_its_schema_is_not_run_and_an_output_that_does_not_is_not_published() {
    let with_schemas = |policy: &str, outcome: Outcome| {
        let mut scene = scene(policy, vec![outcome], vec![]);
        let compile = |path: &std::path::Path| {
            let text = r#"{ "type": "object" }"#.to_owned();
            tidemill_policy::schema::Schema::compile("s", path, &[(path.into(), text)].into())
                .map_err(|_| String::new())
        };
        let schemas = Schemas::load(&scene.pipeline.handler.schema, compile).expect("schemas");
        scene.pipeline.schemas = Arc::new(schemas);
        scene
    };
    let scene_ = with_schemas("schema = \"/s.json\"", Outcome::Completed(vec![]));
    check(&scene_.deliver_first().await, "record | tidemill.deadletter.h | dead | term schema");
    assert_eq!(scene_.invocations(), 0);

    let outputs = || Outcome::Completed(vec![output("out.a"), output("out.b")]);
    let scene_ = with_schemas("schema_out = { \"out.b\" = \"/s.json\" }", outputs());
    check(&scene_.deliver_first().await, "record | tidemill.deadletter.h | dead | term output");
    let policy = "schema_out = { \"out.b\" = \"/s.json\" }\nretry.on = [\"output\"]";
    check(&with_schemas(policy, outputs()).deliver_first().await, "record | retry | ack");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_comes_too_early_is_handed_back_with_the_rest_of_its_delay() {
    // An hour is the longest that a retry may wait.
    for (due_ms, expected) in [(START_MS + 400, "nak 400 ms"), (u64::MAX, "nak 3600000 ms")] {
        let scene = scene("", vec![], vec![]);
        let due = [(headers::NOT_BEFORE, &*due_ms.to_string())];
        check(&scene.deliver_stored_at(START_MS, &due, Source::Retry, 1).await, expected);
        assert_eq!(scene.invocations(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn in_broadcast_mode_retries_happen_in_place_with_the_history_kept() {
    let policy = "mode = \"broadcast\"\nretry = { max_attempts = 3 }";
    let scene = scene(policy, vec![retry(), Outcome::Trapped(Interruption::default()), retry()], vec![]);
    let told = scene.deliver_first().await;
    check(&told, "tidemill.deadletter.h | term retry");
    let kinds: Vec<_> = last_history(&told).iter().map(|error| (error.attempt, error.kind)).collect();
    assert_eq!(kinds, [(1, Kind::Retry), (2, Kind::Trap), (3, Kind::Retry)]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_too_large_to_be_stored_happens_in_place() {
    let too_large = PublishError::TooLarge { subject: "s".into(), why: "1 MiB".into() };
    let scene = scene("", vec![retry(), Outcome::Completed(vec![])], vec![too_large]);
    let told = scene.deliver_first().await;
    check(&told, "record | retry refused | record |  | done | ack");
    let next = |told: &Told| match told {
        Told::Remember(Marker::Open(progress)) => Some(matches!(progress.next, Next::Attempt(_))),
        _ => None,
    };
    assert_eq!(told.iter().filter_map(next).collect::<Vec<_>>(), [false, true], "else a death in it would not count");
    assert_eq!(scene.invocations(), 2);
}

/// Nothing is sent that is known to be refused.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_small_enough_is_kept() {
    let in_place = scene("", vec![retry(), Outcome::Completed(vec![])], vec![]);
    *in_place.pipeline.broker.bytes_max.lock().expect("not poisoned") = Some(100);
    check(&in_place.deliver_first().await, "record | record |  | done | ack");
    assert_eq!(in_place.invocations(), 2);
    let given_up = scene("", vec![reject()], vec![]);
    *given_up.pipeline.broker.bytes_max.lock().expect("not poisoned") = Some(100);
    check(&given_up.deliver_first().await, "record | nak 300000 ms");
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_dead_letter_cannot_be_stored_stays_in_its_stream() {
    let too_large = PublishError::TooLarge { subject: "s".into(), why: "1 MiB".into() };
    let told = scene("", vec![reject()], vec![too_large]).deliver_first().await;
    check(&told, "record | tidemill.deadletter.h refused | nak 300000 ms");
}

#[tokio::test(start_paused = true)]
async fn when_the_time_to_drain_is_over_running_and_held_events_are_handed_back() {
    let hanging = scene("", vec![], vec![]);
    hanging.pipeline.stop.overdue.cancel();
    check(&hanging.deliver_first().await, "nak 1000 ms");

    let held = scene("", vec![Outcome::Completed(vec![output("out.a")])], vec![unavailable(); 3]);
    let (told, ()) = tokio::join!(held.deliver_first(), async {
        sleep(HOLD_DELAYS.0 / 2).await;
        held.pipeline.stop.overdue.cancel();
    });
    check(&told, "out.a refused | nak 1000 ms");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_retry_in_place_ends_when_the_process_is_asked_to_stop() {
    let scene = scene("mode = \"broadcast\"", vec![retry()], vec![]);
    scene.pipeline.stop.requested.cancel();
    check(&scene.deliver_first().await, "nak 1000 ms");
}

const DEDUP: &str = "dedup = { key = \"id\", window = \"1h\" }";

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_recognised_before_it_is_run_also_on_its_first_delivery() {
    let outcome = || Outcome::Completed(vec![output("out.a")]);
    let scene = scene(DEDUP, vec![outcome(), outcome()], vec![]);
    let message_id = [(headers::MSG_ID, "e1")];
    check(&scene.deliver(&message_id, Source::Input, 1).await, "out.a | done | ack");
    check(&scene.deliver(&message_id, Source::Input, 1).await, "out.a | done | ack | ack");
    // Another instance asks the broker.
    let other = Pipeline { recent: Arc::default(), ..scene.pipeline };
    let other = Scene { pipeline: other };
    check(&other.deliver(&message_id, Source::Input, 1).await, "out.a | done | ack | ack | ack");
    assert_eq!(other.invocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_dead_lettered_is_not_run_again_until_it_is_replayed() {
    let scene = scene(DEDUP, vec![reject(), Outcome::Completed(vec![])], vec![]);
    let message_id = [(headers::MSG_ID, "e1")];
    check(&scene.deliver(&message_id, Source::Input, 1).await, "record | tidemill.deadletter.h | dead | term reject");
    assert_eq!(scene.deliver(&message_id, Source::Input, 1).await.last(), Some(&Told::Settle(Settlement::Ack)));
    assert_eq!(scene.invocations(), 1);
    let replay = [
        (headers::EVENT_ID, "e1"),
        (headers::ATTEMPT, "1"),
        (headers::ERRORS, "[]"),
        (headers::ORIGIN_SUBJECT, "in.x"),
        (headers::REPLAY, "1"),
    ];
    for _ in 0..2 {
        scene.deliver(&replay, Source::Retry, 1).await;
    }
    assert_eq!(scene.invocations(), 2, "it passes dedup once");
}

/// A producer that was mended sends again what was discarded; a stream was purged while an event was being retried.
#[tokio::test(start_paused = true)]
async fn what_has_ended_in_nothing_is_no_duplicate() {
    for first in [reject(), retry()] {
        let scene = scene(DEDUP, vec![first, Outcome::Completed(vec![])], vec![]);
        let message_id = [(headers::MSG_ID, "e1")];
        scene.deliver(&message_id, Source::Input, 1).await;
        *scene.pipeline.broker.is_bare.lock().expect("not poisoned") = true;
        let again = Pipeline { recent: Arc::default(), ..scene.pipeline };
        let again = Scene { pipeline: again };
        let before = again.told().len();
        let position =
            Position { stream: "IN".into(), stream_created_unix: 1, sequence: 8, stored_ms: 9, delivered: 1 };
        let headers = vec![(headers::MSG_ID.to_owned(), "e1".to_owned())];
        let message = Message { subject: "in.x".into(), headers, payload: "hello".into(), damage: None };
        let taken = again.pipeline.take(Delivery { message, position, source: Source::Input, receipt: () });
        let (fate, _) = again.pipeline.handle(taken, Slots::new(1).take().await).await;
        assert!(matches!(fate.what, What::Handled { .. }), "{:?}", fate.what);
        check(&again.told()[before..], " | done | ack");
        assert_eq!(again.invocations(), 2);
    }
}

/// Whoever was cut off for long may have lost its message to another instance, and looks before it publishes.
#[tokio::test(start_paused = true)]
async fn outputs_of_an_old_delivery_are_published_only_if_nobody_else_has_the_event() {
    for is_alone in [true, false] {
        let mut scene = scene("ack_wait = \"30s\"", vec![Outcome::Completed(vec![output("out.a")])], vec![]);
        scene.pipeline.invoker.takes = Duration::from_secs(20);
        let other = async {
            sleep(Duration::from_secs(10)).await;
            let broker = &scene.pipeline.broker;
            let again = scene.pipeline.take(delivery(2));
            let token = again.work.event.as_ref().expect("an event").token.as_str().to_owned();
            let begun = marker::begun(&again.work.arrival, "other");
            if !is_alone {
                broker.remember(&token, &begun, Duration::ZERO, 0).await.expect("nothing is there");
            }
        };
        let (told, ()) = tokio::join!(scene.deliver_first(), other);
        check(&told, if is_alone { "out.a | ack" } else { "begin | nothing" });
    }
}

fn delivery(delivered: u32) -> Delivery<()> {
    let message = Message { subject: "in.x".into(), headers: Vec::new(), payload: "hello".into(), damage: None };
    let position = Position { stream: "IN".into(), stream_created_unix: 1, sequence: 7, stored_ms: 5, delivered };
    Delivery { message, position, source: Source::Input, receipt: () }
}

#[tokio::test(start_paused = true)]
async fn a_recorded_failure_is_carried_out_without_running_the_event_again() {
    let scene = scene("", vec![retry(), retry()], vec![]);
    check(&scene.deliver_first().await, "record | retry | ack");
    // The acknowledgement was lost.
    let told = scene.deliver(&[], Source::Input, 2).await;
    check(&told, "record | retry | ack | retry | ack");
    assert_eq!(told[1], told[3], "the same message, which the broker recognises");
    assert_eq!(scene.invocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn short_retries_wait_in_memory_and_are_recorded_all_the_same() {
    let policy = "retry = { max_attempts = 5, initial = \"100ms\", jitter = 0.0, in_memory = \"300ms\" }";
    let scene = scene(policy, vec![retry(); 3], vec![]);
    let told = scene.deliver_first().await;
    check(&told, "record | record | record | retry | ack");
    let attempts: Vec<_> = last_history(&told).iter().map(|error| error.attempt).collect();
    assert_eq!((attempts, scene.invocations()), (vec![1, 2, 3], 3));
    let Told::Publish(batch, _) = &told[3] else { panic!("{told:?}") };
    assert_eq!(headers::get(&batch[0].headers, headers::ATTEMPT), Some("4"));
}

#[tokio::test(start_paused = true)]
async fn what_dies_in_an_attempt_is_charged_from_the_second_delivery_on() {
    let policy = "retry = { max_attempts = 3, initial = \"100ms\", in_memory = \"1s\" }";
    let scene = scene(policy, vec![retry()], vec![]);
    let hangs = async |delivered| {
        let run = scene.deliver(&[], Source::Input, delivered);
        tokio::time::timeout(Duration::from_secs(5), run).await.expect_err("hangs");
        let seen = scene.pipeline.invoker.seen.lock().expect("not poisoned");
        (seen.len(), seen.last().map(|event| event.attempt.get()))
    };
    // The second attempt hangs, and the process dies in it: nobody knows that it had begun.
    assert_eq!(hangs(1).await, (2, Some(2)));
    // Each death after that is another process'.
    let mut scene_ = scene;
    for (delivered, attempt) in [(2, 2), (3, 3)] {
        scene_.pipeline.instance = format!("i{delivered}").into();
        let run = scene_.deliver(&[], Source::Input, delivered);
        tokio::time::timeout(Duration::from_secs(5), run).await.expect_err("hangs");
        let seen = scene_.pipeline.invoker.seen.lock().expect("not poisoned");
        assert_eq!(seen.last().map(|event| event.attempt.get()), Some(attempt));
    }
    scene_.pipeline.instance = "i4".into();
    let told = tokio::time::timeout(Duration::from_secs(5), scene_.deliver(&[], Source::Input, 4)).await;
    let told = told.expect("it is not run again");
    let kinds: Vec<_> = last_history(&told).iter().map(|error| (error.attempt, error.kind)).collect();
    assert_eq!(kinds, [(1, Kind::Retry), (2, Kind::Lost), (3, Kind::Attempts)]);
    assert_eq!(scene_.invocations(), 4, "one more than it may have");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_handed_back_costs_no_attempt_and_leaves_nothing_behind() {
    let scene = scene("retry = { max_attempts = 1 }", vec![Outcome::Completed(vec![])], vec![]);
    for delivered in 1..4 {
        let message = Message { subject: "in.x".into(), headers: vec![], payload: "hello".into(), damage: None };
        let position = Position { stream: "IN".into(), stream_created_unix: 1, sequence: 7, stored_ms: 5, delivered };
        let taken = scene.pipeline.take(Delivery { message, position, source: Source::Input, receipt: () });
        scene.pipeline.hand_back(taken).await;
    }
    check(&scene.told(), "nak 0 ms | nak 0 ms | nak 0 ms");
    scene.deliver(&[], Source::Input, 4).await;
    assert_eq!(scene.invocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_off_at_a_stop_does_not_count() {
    let mut scene = scene("retry = { max_attempts = 1 }", vec![], vec![]);
    for delivered in 2..5 {
        scene.pipeline.stop = Stop { requested: CancellationToken::new(), overdue: CancellationToken::new() };
        let overdue = scene.pipeline.stop.overdue.clone();
        let stop = async {
            sleep(Duration::from_secs(1)).await;
            overdue.cancel();
        };
        let (told, ()) = tokio::join!(scene.deliver(&[], Source::Input, delivered), stop);
        assert_eq!(summary(&told[told.len() - 3..]), "begin | record | nak 1000 ms");
        scene.pipeline.instance = format!("i{delivered}").into();
    }
    assert_eq!(scene.invocations(), 3);
}

#[tokio::test(start_paused = true)]
async fn two_copies_of_an_event_do_not_run_at_once() {
    let scene = scene(DEDUP, vec![], vec![]);
    let message_id = [(headers::MSG_ID, "e1")];
    let both = async {
        tokio::join!(scene.deliver(&message_id, Source::Input, 1), scene.deliver(&message_id, Source::Input, 1))
    };
    Box::pin(tokio::time::timeout(Duration::from_secs(5), both)).await.expect_err("the handler hangs");
    assert_eq!(scene.invocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_another_instance_is_waited_for_and_its_end_is_believed() {
    let claim = "dedup = { key = \"id\", window = \"1h\", claim = true }";
    let scene = scene(claim, vec![Outcome::Completed(vec![output("out.a")])], vec![]);
    let message_id = [(headers::MSG_ID, "e1")];
    let key = {
        check(&scene.deliver(&message_id, Source::Input, 1).await, "begin | out.a | done | ack");
        scene.pipeline.broker.markers.lock().expect("not poisoned").keys().next().cloned().expect("a marker")
    };
    let set = |marker: Marker| {
        let markers = &scene.pipeline.broker.markers;
        markers.lock().expect("not poisoned").insert(key.clone(), (marker, 9));
    };
    let progress = |delivery| Progress {
        message: "IN:7@5".into(),
        attempts: 0,
        errors: Vec::new(),
        dropped: 0,
        epoch: 0,
        run: Some(Run { instance: "other".into(), delivery }),
        next: Next::End,
    };
    set(Marker::Open(progress(1)));
    let other = Pipeline {
        gate: Arc::clone(&scene.pipeline.gate),
        recent: Arc::default(),
        broker: Arc::clone(&scene.pipeline.broker),
        invoker: ScriptedInvoker { outcomes: Mutex::default(), seen: Mutex::default(), takes: Duration::ZERO },
        handler: Arc::clone(&scene.pipeline.handler),
        schemas: Arc::default(),
        prefix: "tidemill".into(),
        instance: "i2".into(),
        component: "digest".into(),
        clock: scene.pipeline.clock,
        stop: scene.pipeline.stop.clone(),
    };
    let other = Scene { pipeline: other };
    let (told, ()) = tokio::join!(other.deliver(&message_id, Source::Input, 1), async {
        sleep(Duration::from_secs(10)).await;
        set(Marker::Done { epoch: 0 });
    });
    check(&told, "begin | out.a | done | ack | ack");
    assert_eq!(other.invocations(), 0);
}

#[tokio::test(start_paused = true)]
async fn atomic_outputs_are_stored_together_or_the_event_is_given_up_without_any() {
    let two = || Outcome::Completed(vec![output("out.a"), output("out.b")]);
    let apart = PublishError::Apart { subject: "out.b".into(), stream: "B".into(), other: "A".into() };
    let rows = [
        (two(), vec![], "[out.a out.b] | ack"),
        (two(), vec![unavailable()], "[out.a out.b refused] | [out.a out.b] | ack"),
        (two(), vec![apart], "[out.a out.b refused] | record | tidemill.deadletter.h | dead | term output"),
        (Outcome::Completed(vec![output("out.a")]), vec![], "out.a | ack"),
        (Outcome::Completed(Vec::new()), vec![], " | ack"),
    ];
    for (outcome, refusals, expected) in rows {
        check(&scene("outputs = \"atomic\"", vec![outcome], refusals).deliver_first().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_outputs_are_stored_is_not_given_up() {
    // Where they are not stored together, some may be missing: the attempt is made again.
    for (outputs, expected, runs) in [("atomic", "record | done | ack", 1), ("each", "begin | out.a | done | ack", 2)] {
        let policy = format!("outputs = {outputs:?}\nretry.max_attempts = 1");
        let completed = Outcome::Completed(vec![output("out.a")]);
        let mut scene = scene(&policy, vec![completed.clone(), completed], vec![unavailable(); 1000]);
        // The process dies after it has stored the outputs, in the only attempt, before that is confirmed.
        let run = scene.deliver(&[], Source::Input, 2);
        tokio::time::timeout(Duration::from_secs(5), run).await.expect_err("it holds on to the event");
        let id = scene.told().iter().find_map(|told| match told {
            Told::Publish(batch, _) => headers::get(&batch[0].headers, headers::MSG_ID).map(str::to_owned),
            _ => None,
        });
        *scene.pipeline.broker.known.lock().expect("not poisoned") = id;
        scene.pipeline.broker.refusals.lock().expect("not poisoned").clear();
        scene.pipeline.instance = "i2".into();
        let before = scene.told().len();
        check(&scene.deliver(&[], Source::Input, 3).await[before..], expected);
        assert_eq!(scene.invocations(), runs);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_the_gate_costs_no_attempt_even_if_the_process_is_killed() {
    let completed = || Outcome::Completed(Vec::new());
    let scene = scene("rate_limit = { rate = '1/h', burst = 1 }", vec![completed(), completed()], vec![]);
    scene.deliver(&[], Source::Input, 1).await;
    let killed = tokio::time::timeout(Duration::from_secs(10), scene.deliver(&[], Source::Input, 1)).await;
    assert!(killed.is_err() && scene.invocations() == 1, "it waits");
    // Delivered again, it is still its first attempt.
    let before = scene.told().len();
    check(&scene.deliver(&[], Source::Input, 2).await[before..], "begin |  | done | ack");
    let seen = scene.pipeline.invoker.seen.lock().expect("not poisoned").clone();
    assert_eq!(seen.iter().map(|event| event.attempt.get()).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_has_become_too_old_while_it_waited_is_not_run() {
    let outcomes = vec![Outcome::Completed(Vec::new()), Outcome::Completed(Vec::new())];
    let scene = scene("rate_limit = { rate = '1/h', burst = 1 }\nmax_age = '20min'", outcomes, vec![]);
    let fresh = |sequence| Position {
        stream: "IN".into(),
        stream_created_unix: 1,
        sequence,
        stored_ms: START_MS,
        delivered: 1,
    };
    for sequence in [1, 2] {
        let message = Message { subject: "in.x".into(), headers: Vec::new(), payload: "p".into(), damage: None };
        let delivery = Delivery { message, position: fresh(sequence), source: Source::Input, receipt: () };
        let slot = Slots::new(1).take().await;
        let (fate, _) = scene.pipeline.handle(scene.pipeline.take(delivery), slot).await;
        let is_expired = matches!(&fate.what, What::DeadLettered { error } if error.kind == Kind::Expired);
        assert_eq!(is_expired, sequence == 2, "{:?}", fate.what);
    }
    assert_eq!(scene.invocations(), 1);
}
