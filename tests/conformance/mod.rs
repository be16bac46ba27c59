//! What every broker must do for the pipeline to keep its promises. The simulated broker and NATS are both held to
//! it, so that what the simulation shows is worth something.

use std::time::Duration;

use tidemill::broker::{Broker, Delivery, MarkerError, PublishError, Settlement, Source, Stored};
use tidemill_policy::arrival;
use tidemill_policy::decide::{Failure, Stamp};
use tidemill_policy::decode::decode;
use tidemill_policy::headers;
use tidemill_policy::history::Kind;
use tidemill_policy::id::Token;
use tidemill_policy::manifest::{self, AckMode, Handler, Manifest};
use tidemill_policy::marker::{self, Carrier, Marker};
use tidemill_policy::publication::{self, Case, Publication};

/// How long the broker waits for a sign of life.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(2);
/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(20);
/// How long is waited for something that must not happen: longer than the broker waits for a sign of life.
const LONG: Duration = Duration::from_secs(3);

/// A broker with a stream of inputs (`in.>`) and one of outputs (`out.>`), and our own.
pub(crate) trait Bench {
    /// The broker.
    type Broker: Broker;

    /// The broker.
    fn broker(&self) -> &Self::Broker;

    /// Now, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Stores an input.
    async fn input(&self, id: &str);

    /// The next delivery of an input or a retry, if one comes in time.
    async fn next(&mut self, wait: Duration) -> Option<Delivery<<Self::Broker as Broker>::Receipt>>;

    /// The payloads that are stored on `out.>`.
    async fn outputs(&self) -> Vec<String>;

    /// Whether it can store messages together.
    fn has_batches(&self) -> bool;
}

/// The manifest of the handler that the bench serves.
pub(crate) fn manifest() -> Manifest {
    let text = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nack_wait = '2s'\nallow.publish = ['out.>']";
    let source = manifest::Source { path: "tidemill.toml", text };
    manifest::parse(source, &[], &|_| None).map_err(|problems| problems.to_string()).expect("valid").manifest
}

fn handler() -> Handler {
    manifest().handlers.remove("h").expect("the handler")
}

fn message(subject: &str, id: &str, payload: &str) -> Publication {
    let headers = vec![(headers::MSG_ID.to_owned(), id.to_owned())];
    Publication { subject: subject.into(), headers, payload: bytes::Bytes::copy_from_slice(payload.as_bytes()) }
}

async fn settle<B: Bench>(bench: &B, delivery: Delivery<<B::Broker as Broker>::Receipt>, settlement: Settlement) {
    bench.broker().settle(delivery.receipt, settlement, AckMode::Confirmed).await;
}

async fn delivered<B: Bench>(bench: &mut B) -> Delivery<<B::Broker as Broker>::Receipt> {
    bench.next(SOON).await.expect("a delivery")
}

/// A message is stored once for each id, and every time it is confirmed.
pub(crate) async fn publishing_again_changes_nothing<B: Bench>(bench: B) {
    for _ in 0..3 {
        bench.broker().publish(&[message("out.a", "1", "one"), message("out.b", "2", "two")]).await.expect("stored");
    }
    assert_eq!(bench.outputs().await, ["one", "two"]);
}

/// Of a batch with a subject that no stream stores, nothing is stored.
pub(crate) async fn a_batch_with_nowhere_to_go_is_not_begun<B: Bench>(bench: B) {
    let refused = bench.broker().publish(&[message("out.a", "1", "one"), message("nowhere", "2", "two")]).await;
    assert_eq!(refused, Err(PublishError::NoStream { subject: "nowhere".into() }));
    assert!(bench.outputs().await.is_empty());
}

/// Three outputs that say that they are stored together.
fn whole() -> [Publication; 3] {
    ["one", "two", "three"].map(|name| {
        let mut message = message(&format!("out.{name}"), name, name);
        message.headers.push((headers::OUTPUTS.to_owned(), "3".to_owned()));
        message
    })
}

/// What belongs together is stored as a whole, in order, and once.
pub(crate) async fn what_belongs_together_is_stored_once_as_a_whole<B: Bench>(bench: B) {
    if !bench.has_batches() {
        return;
    }
    for _ in 0..3 {
        bench.broker().publish_together(&whole()).await.expect("stored");
    }
    assert_eq!(bench.outputs().await, ["one", "two", "three"]);
}

/// Nothing is stored of what belongs together if one message of it has nowhere to go, or somewhere else.
pub(crate) async fn what_cannot_be_stored_together_is_not_stored_at_all<B: Bench>(bench: B) {
    if !bench.has_batches() {
        return;
    }
    let with = |subject: &str| [message("out.a", "1", "one"), message(subject, "2", "two")];
    let nowhere = bench.broker().publish_together(&with("nowhere")).await;
    assert_eq!(nowhere, Err(PublishError::NoStream { subject: "nowhere".into() }));
    let elsewhere = bench.broker().publish_together(&with("in.a")).await;
    let apart = PublishError::Apart { subject: "in.a".into(), stream: "IN".into(), other: "OUT".into() };
    assert_eq!(elsewhere, Err(apart));
    assert!(bench.outputs().await.is_empty());
    bench.broker().publish_together(&with("out.b")).await.expect("stored");
    assert_eq!(bench.outputs().await, ["one", "two"]);
}

/// Where a part was stored singly, the rest follows, and only that.
pub(crate) async fn what_was_stored_in_part_is_completed<B: Bench>(bench: B) {
    if !bench.has_batches() {
        return;
    }
    let [one, two, three] = whole();
    bench.broker().publish(&[message("out.two", "two", "two")]).await.expect("stored");
    bench.broker().publish_together(&[one, two, three]).await.expect("stored");
    assert_eq!(bench.outputs().await, ["two", "one", "three"]);
}

/// Nothing is added to what was stored as a whole, nor to one output that was all of it.
pub(crate) async fn nothing_is_added_to_a_whole<B: Bench>(bench: B) {
    if !bench.has_batches() {
        return;
    }
    let [one, two, three] = whole();
    bench.broker().publish_together(&[one.clone(), two.clone()]).await.expect("stored");
    bench.broker().publish_together(&[one.clone(), two.clone(), three.clone()]).await.expect("stored before");
    assert_eq!(bench.outputs().await, ["one", "two"]);
    bench.broker().publish(std::slice::from_ref(&three)).await.expect("stored");
    bench.broker().publish_together(&[three, message("out.four", "four", "four")]).await.expect("stored before");
    assert_eq!(bench.outputs().await, ["one", "two", "three"]);
}

/// Whether an output is stored can be asked, and the question leaves nothing behind.
pub(crate) async fn what_is_stored_is_known<B: Bench>(bench: B) {
    if !bench.has_batches() {
        return;
    }
    let patterns = ["out.>".to_owned(), "nowhere.>".to_owned()];
    for _ in 0..2 {
        assert_eq!(bench.broker().knows(&patterns, "one").await, Ok(false));
    }
    assert!(bench.outputs().await.is_empty());
    bench.broker().publish_together(&whole()).await.expect("stored");
    for (id, known) in [("one", true), ("three", true), ("four", false)] {
        assert_eq!(bench.broker().knows(&patterns, id).await, Ok(known), "{id}");
    }
    assert_eq!(bench.broker().knows(&patterns[1..], "one").await, Ok(false));
    assert_eq!(bench.outputs().await, ["one", "two", "three"]);
}

/// What is acknowledged or given up does not come back.
pub(crate) async fn what_is_settled_does_not_come_back<B: Bench>(mut bench: B) {
    for settlement in [Settlement::Ack, Settlement::Term { reason: "why\r\nnot".into() }] {
        bench.input("e1").await;
        let delivery = delivered(&mut bench).await;
        assert_eq!((delivery.source, delivery.position.delivered), (Source::Input, 1));
        settle(&bench, delivery, settlement).await;
    }
    assert!(bench.next(LONG).await.is_none());
}

/// What is handed back comes again after the delay, and says so.
pub(crate) async fn what_is_handed_back_comes_again_after_its_delay<B: Bench>(mut bench: B) {
    bench.input("e1").await;
    let delivery = delivered(&mut bench).await;
    let (position, before_ms) = (delivery.position.clone(), bench.now_ms());
    settle(&bench, delivery, Settlement::Nak { delay: Duration::from_millis(700) }).await;
    let again = delivered(&mut bench).await;
    assert!(bench.now_ms() >= before_ms + 690, "it came too early");
    assert_eq!(again.position.delivered, 2);
    assert_eq!((again.position.sequence, again.position.stored_ms), (position.sequence, position.stored_ms));
}

/// A delivery comes again if its process gives no sign of life, and not while it does.
pub(crate) async fn only_an_abandoned_delivery_comes_again<B: Bench>(mut bench: B) {
    bench.input("e1").await;
    let held = delivered(&mut bench).await;
    assert!(bench.next(LONG).await.is_none(), "it is kept alive");
    drop(held);
    assert_eq!(delivered(&mut bench).await.position.delivered, 2);
}

/// What is handed back without a delay is delivered again at once, and can be settled then.
pub(crate) async fn what_is_handed_back_at_once_comes_again_once<B: Bench>(mut bench: B) {
    bench.input("e1").await;
    let first = delivered(&mut bench).await;
    settle(&bench, first, Settlement::Nak { delay: Duration::ZERO }).await;
    let second = delivered(&mut bench).await;
    assert_eq!(second.position.delivered, 2);
    settle(&bench, second, Settlement::Ack).await;
    assert!(bench.next(LONG).await.is_none());
}

/// A retry comes back when it is due, carries what it should, and comes once however often it is published.
pub(crate) async fn a_retry_comes_when_it_is_due_and_once<B: Bench>(mut bench: B) {
    bench.input("e1").await;
    let delivery = delivered(&mut bench).await;
    let handler = handler();
    let arrival = arrival::first(delivery.message.clone(), delivery.position.clone());
    let event = decode(&arrival, &handler).expect("can be decoded");
    let now_ms = bench.now_ms();
    let stamp = Stamp { now_ms, component: "c", instance: "i", usage: tidemill_policy::budget::Usage::default() };
    let error = Failure::new(Kind::Retry, "later").into_error(arrival.attempt, "h", &stamp);
    let case = Case { handler: &handler, arrival: &arrival, event: Some(&event) };
    let clock = bench.broker().retry_clock();
    let bytes_max = bench.broker().message_bytes_max("tidemill.retry.due.h").await;
    let retry = publication::retry(case, "tidemill", clock, &error, now_ms, Duration::from_secs(1), bytes_max);
    let retry = retry.expect("it fits");
    for _ in 0..2 {
        bench.broker().publish(std::slice::from_ref(&retry)).await.expect("stored");
    }
    settle(&bench, delivery, Settlement::Ack).await;
    loop {
        let delivery = delivered(&mut bench).await;
        assert_eq!(delivery.source, Source::Retry);
        let again = arrival::retried(delivery.message.clone(), delivery.position.clone());
        // Without schedules it comes at once, and is handed back until it is due.
        if let Some(rest) = again.not_before_ms.map(|due_ms| due_ms.saturating_sub(bench.now_ms())).filter(|ms| *ms > 0)
        {
            settle(&bench, delivery, Settlement::Nak { delay: Duration::from_millis(rest) }).await;
            continue;
        }
        assert!(bench.now_ms() >= now_ms + 990, "it came too early");
        assert_eq!((again.damage, again.attempt.get(), again.history.len()), (None, 2, 1));
        assert_eq!(again.origin, arrival.origin);
        settle(&bench, delivery, Settlement::Ack).await;
        break;
    }
    assert!(bench.next(LONG).await.is_none());
}

/// It is told whether a message, a retry or a dead letter is still there, and no other is taken for it.
pub(crate) async fn what_carries_an_event_is_found<B: Bench>(mut bench: B) {
    let handler = handler();
    bench.input("1").await;
    let delivery = delivered(&mut bench).await;
    let arrival = arrival::first(delivery.message.clone(), delivery.position.clone());
    let event = decode(&arrival, &handler).expect("an event");
    let stamp =
        Stamp { now_ms: bench.now_ms(), component: "", instance: "", usage: tidemill_policy::budget::Usage::default() };
    let error = Failure::new(Kind::Retry, "later").into_error(arrival.attempt, "h", &stamp);
    let case = Case { handler: &handler, arrival: &arrival, event: Some(&event) };
    let other = Token::read(&"a".repeat(26)).expect("a token");
    let carries = async |token: &Token, carrier: &Carrier| {
        bench.broker().carries("h", token, std::slice::from_ref(carrier)).await.expect("an answer")
    };
    let name = delivery.position.name();
    assert!(carries(&event.token, &Carrier::Message(name.clone())).await);
    for odd in [format!("{name}0"), "IN:999@5".into(), "NOWHERE:1@5".into(), String::new()] {
        assert!(!carries(&event.token, &Carrier::Message(odd.clone())).await, "{odd}");
    }
    let letter = publication::dead_letter(case, &error, None, bench.broker().message_ttl(), usize::MAX).expect("fits");
    let stored = bench.broker().publish(&[letter]).await.expect("stored").last;
    assert!(carries(&event.token, &Carrier::Letter(stored.clone())).await);
    assert!(!carries(&other, &Carrier::Letter(stored.clone())).await, "it is another event's");
    let next = marker::Stored { sequence: stored.sequence + 1, ..stored };
    assert!(!carries(&event.token, &Carrier::Letter(next)).await);
    assert!(!carries(&event.token, &Carrier::Retry).await);
    for delay in [Duration::from_hours(1), Duration::ZERO] {
        let (clock, now_ms) = (bench.broker().retry_clock(), bench.now_ms());
        let retry = publication::retry(case, "tidemill", clock, &error, now_ms, delay, usize::MAX).expect("fits");
        bench.broker().publish(&[retry]).await.expect("stored");
        assert!(carries(&event.token, &Carrier::Retry).await);
        assert!(!carries(&other, &Carrier::Retry).await);
    }
}

/// Markers are replaced only by who knows the present one.
pub(crate) async fn markers_are_replaced_by_compare_and_set<B: Bench>(bench: B) {
    let (broker, age) = (bench.broker(), Duration::from_mins(1));
    let claimed = Marker::Claimed { instance: "i".into() };
    assert_eq!(broker.recall("k").await.expect("an answer").marker, None);
    let first = broker.remember("k", &claimed, age, 0).await.expect("created");
    assert_eq!(
        broker.remember("k", &Marker::Dead { epoch: 0, letter: None, place: String::new() }, age, 0).await,
        Err(MarkerError::Conflict)
    );
    let second = broker.remember("k", &Marker::Done { epoch: 0 }, age, first).await.expect("replaced");
    assert_ne!(first, second);
    assert_eq!(broker.remember("k", &claimed, age, first).await, Err(MarkerError::Conflict));
    let recalled = broker.recall("k").await.expect("an answer");
    assert_eq!((recalled.marker, recalled.revision), (Some(Marker::Done { epoch: 0 }), second));
    assert_eq!(broker.recall("other").await.expect("an answer").revision, 0);
}

/// What instances share is replaced only by who knows the present one, and kept apart from markers.
pub(crate) async fn records_are_replaced_by_compare_and_set<B: Bench>(bench: B) {
    let (broker, age) = (bench.broker(), Duration::from_mins(1));
    let (key, one, two) = ("breaker.h", bytes::Bytes::from_static(b"one"), bytes::Bytes::from_static(b"two"));
    assert_eq!(broker.read_record(key).await.expect("an answer"), Stored::default());
    let first = broker.replace_record(key, one.clone(), age, 0).await.expect("created");
    assert_eq!(broker.replace_record(key, two.clone(), age, 0).await, Err(MarkerError::Conflict));
    let second = broker.replace_record(key, two.clone(), age, first).await.expect("replaced");
    assert_eq!(broker.replace_record(key, one, age, first).await, Err(MarkerError::Conflict));
    let stored = broker.read_record(key).await.expect("an answer");
    assert_eq!(stored, Stored { value: Some(two), revision: second });
    assert_eq!(broker.recall("breaker").await.expect("an answer").marker, None);
}

/// A marker is forgotten after its lifetime, and can be created then; replacing it makes it live on.
pub(crate) async fn markers_are_forgotten_after_their_lifetime<B: Bench>(mut bench: B) {
    if !bench.broker().message_ttl() {
        return;
    }
    let (short, long) = (Duration::from_secs(1), Duration::from_mins(1));
    let first = bench
        .broker()
        .remember("long", &Marker::Dead { epoch: 0, letter: None, place: String::new() }, short, 0)
        .await
        .expect("created");
    bench.broker().remember("long", &Marker::Done { epoch: 0 }, long, first).await.expect("replaced");
    bench.broker().remember("short", &Marker::Done { epoch: 0 }, short, 0).await.expect("created");
    assert!(bench.next(LONG).await.is_none());
    let recalled = bench.broker().recall("short").await.expect("an answer");
    assert_eq!((recalled.marker, recalled.revision), (None, 0));
    bench.broker().remember("short", &Marker::Done { epoch: 0 }, long, 0).await.expect("created again");
    assert_eq!(bench.broker().recall("long").await.expect("an answer").marker, Some(Marker::Done { epoch: 0 }));
}

/// Makes a test of each requirement, with the bench that an async block gives.
macro_rules! conformance {
    ($runtime:meta, $bench:expr) => {
        crate::conformance::conformance! { $runtime, $bench,
            publishing_again_changes_nothing,
            a_batch_with_nowhere_to_go_is_not_begun,
            what_belongs_together_is_stored_once_as_a_whole,
            what_cannot_be_stored_together_is_not_stored_at_all,
            what_was_stored_in_part_is_completed,
            nothing_is_added_to_a_whole,
            what_is_stored_is_known,
            what_is_settled_does_not_come_back,
            what_carries_an_event_is_found,
            what_is_handed_back_comes_again_after_its_delay,
            only_an_abandoned_delivery_comes_again,
            what_is_handed_back_at_once_comes_again_once,
            a_retry_comes_when_it_is_due_and_once,
            markers_are_replaced_by_compare_and_set,
            records_are_replaced_by_compare_and_set,
            markers_are_forgotten_after_their_lifetime,
        }
    };
    ($runtime:meta, $bench:expr, $($name:ident,)*) => {
        $(
            #[$runtime]
            async fn $name() {
                crate::conformance::$name($bench.await).await;
            }
        )*
    };
}
pub(crate) use conformance;
