//! Order by key on a real server: over several instances, through failures, and when the active instance dies.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidemill::broker::nats::connect::Target;
use tidemill::instance::{self, Generation};
use tidemill::invoker::{Invoker, Report};
use tidemill::status::Status;
use tidemill::version::Part;
use tidemill_policy::budget::Usage;
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::manifest::Auth;
use tidemill_policy::outcome::Outcome;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{World, completed, eventually, output, parse, reject, retry};

/// What the handlers of all instances have seen.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The instance that runs an event of the key.
    running: HashMap<String, usize>,
    /// The number of the last event of the key that has ended.
    pub(crate) ended: HashMap<String, u64>,
    /// Which instance ended how many.
    work: HashMap<usize, usize>,
    /// How many events ran once more.
    pub(crate) repeats: usize,
    most_at_once: usize,
    pub(crate) violations: Vec<String>,
}

impl Ledger {
    fn begin(&mut self, key: &str, number: u64, instance: usize) {
        if let Some(other) = self.running.insert(key.to_owned(), instance) {
            self.violations.push(format!("{key} runs in {other} and in {instance} at once"));
        }
        self.most_at_once = self.most_at_once.max(self.running.len());
        let ended = self.ended.get(key).copied().unwrap_or(0);
        // What had ended when its instance died may come once more.
        if number != ended + 1 && number != ended {
            self.violations.push(format!("{key}: {number} is run after {ended}"));
        }
        self.repeats += usize::from(number == ended);
    }

    fn end(&mut self, key: &str, number: u64, instance: usize, has_ended: bool) {
        self.running.remove(key);
        if has_ended {
            self.ended.insert(key.to_owned(), number);
            *self.work.entry(instance).or_default() += 1;
        }
    }
}

#[derive(Clone)]
struct Recorder {
    ledger: Arc<Mutex<Ledger>>,
    instance: usize,
    is_dead: Arc<AtomicBool>,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("not poisoned")
    }
}

impl Invoker for Recorder {
    /// The payload is `{"key": …, "number": …, "fails": …, "reject": …}`.
    async fn invoke(&self, event: Arc<Event>) -> Report {
        let task: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
        let (key, number) = (task["key"].as_str().expect("a key"), task["number"].as_u64().expect("a number"));
        if self.is_dead.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.lock().begin(key, number, self.instance);
        sleep(Duration::from_micros(500)).await;
        if self.is_dead.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let fails = task["fails"].as_u64().unwrap_or(0);
        let outcome = match task["reject"].as_bool() {
            _ if u64::from(event.attempt.get()) <= fails => retry("not yet"),
            Some(true) => reject("never"),
            _ => completed(&[output("out.a", &format!("{key}/{number}"))]),
        };
        let has_ended = !matches!(outcome, Outcome::Retry { .. }) || event.attempt.get() == event.max_attempts;
        self.lock().end(key, number, self.instance, has_ended);
        Report { outcome, usage: Usage::default(), seed: [0; 32], clock_ms: 0 }
    }
}

/// An instance with threads of its own, so that it can be killed: nothing of it goes on, its connection closes.
pub(crate) struct Instance {
    recorder: Recorder,
    pub(crate) status: Arc<Status>,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl Instance {
    fn start(world: &World, manifest: &str, ledger: &Arc<Mutex<Ledger>>, number: usize) -> Instance {
        Instance::start_at(vec![world.server.url.clone()], manifest, ledger, number)
    }

    pub(crate) fn start_at(urls: Vec<String>, manifest: &str, ledger: &Arc<Mutex<Ledger>>, number: usize) -> Instance {
        let recorder = Recorder { ledger: Arc::clone(ledger), instance: number, is_dead: Arc::default() };
        let manifest = parse(manifest);
        let part = |handler: &tidemill_policy::manifest::Handler| Part {
            handler: Arc::new(handler.clone()),
            invoker: recorder.clone(),
            schemas: Arc::default(),
            component: "digest".into(),
            tally: Arc::default(),
        };
        let parts: Vec<_> = manifest.handlers.values().map(part).collect();
        let generation = Generation::new(manifest, parts);
        let status = Arc::new(Status::new(nuid::next().to_lowercase(), &generation));
        let target = Target { urls, auth: Auth::None, tls: None, base: std::path::PathBuf::new() };
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (shared, token) = (Arc::clone(&status), stop.clone());
        runtime.spawn(async move {
            let orders = mpsc::channel(1).1;
            instance::run(target, generation, orders, shared, token).await.expect("runs");
        });
        Instance { recorder, status, stop, runtime: Some(runtime) }
    }

    pub(crate) async fn ready(self) -> Instance {
        eventually("the instance is ready", || async { self.status.is_ready().then_some(()) }).await;
        self
    }

    pub(crate) fn kill(mut self) {
        self.recorder.is_dead.store(true, Ordering::SeqCst);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let number = self.recorder.instance;
        self.recorder.lock().running.retain(|_, instance| *instance != number);
    }

    /// Asks it to stop, and waits until it has.
    async fn drain(mut self) {
        self.stop.cancel();
        let runtime = self.runtime.take().expect("it runs");
        let handle = runtime.handle().clone();
        eventually("the instance has drained", || async { (handle.metrics().num_alive_tasks() == 0).then_some(()) })
            .await;
        runtime.shutdown_background();
    }

    pub(crate) fn done(&self) -> usize {
        self.recorder.lock().work.get(&self.recorder.instance).copied().unwrap_or(0)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn manifest(order: &str) -> String {
    format!(
        "[handler.h]\nsubject = 'in.*'\nstream = 'IN'\nallow.publish = ['out.>']\nconcurrency = 32\nack_wait = '2s'\n\
         limits.timeout = '1s'\nretry = {{ max_attempts = 3, initial = '5ms', max = '20ms' }}\norder = {order}\n"
    )
}

const PARTITIONS: &str = "{ by = 'key', key = 'subject:2', partitions = 16 }";
const QUEUES: &str = "{ by = 'key', key = 'json:/key', in_flight = 512 }";

/// Publishes events of `keys` keys in turn, from `first` to `last` of each. Some fail before they are handled, some
/// are given up.
async fn publish(world: &World, keys: u64, numbers: std::ops::RangeInclusive<u64>) {
    let mut confirmations = Vec::new();
    for number in numbers {
        for key in 0..keys {
            let nth = number * keys + key;
            let fails = u64::from(nth.is_multiple_of(41));
            let task = serde_json::json!({
                "key": format!("k{key}"), "number": number, "fails": fails, "reject": nth.is_multiple_of(97),
            });
            let sent = world.context.publish(format!("in.k{key}"), task.to_string().into()).await;
            confirmations.push(sent.expect("sent"));
        }
    }
    for confirmation in confirmations {
        confirmation.await.expect("confirmed");
    }
}

/// The payloads of the outputs, in the order in which they are stored, are in the order of their events for each key.
async fn check_outputs(world: &World) -> usize {
    let messages = world.messages("OUT").await.into_iter();
    check_order(messages.map(|message| String::from_utf8(message.payload).expect("text")))
}

/// Each text is `<key>/<number>`.
pub(crate) fn check_order(texts: impl IntoIterator<Item = String>) -> usize {
    let mut last = HashMap::new();
    let mut seen = HashSet::new();
    for text in texts {
        let (key, number) = text.split_once('/').expect("key and number");
        let number: u64 = number.parse().expect("a number");
        let before = last.insert(key.to_owned(), number).unwrap_or(0);
        assert!(number > before, "{key}: {number} is stored after {before}");
        assert!(seen.insert(text.clone()), "{text} is stored twice");
    }
    seen.len()
}

/// 20,000 events of 1,000 keys, two instances, of which the one that works is killed again and again.
async fn keys_stay_in_order_while_instances_are_killed(order: &str) {
    const KEYS: u64 = 1000;
    let world = World::in_and_out().await;
    let ledger = Arc::default();
    let text = manifest(order);
    let mut instances = vec![
        Instance::start(&world, &text, &ledger, 0).ready().await,
        Instance::start(&world, &text, &ledger, 1).ready().await,
    ];
    let mut total = 0;
    for (wave, numbers) in [1..=5, 6..=10, 11..=15, 16..=20].into_iter().enumerate() {
        publish(&world, KEYS, numbers.clone()).await;
        total += numbers.clone().count() as u64 * KEYS;
        // In the middle of the work of the wave, the one that has done more of it dies.
        let before: Vec<_> = instances.iter().map(Instance::done).collect();
        eventually("half of the wave has ended", || async {
            let done: usize = instances.iter().zip(&before).map(|(instance, before)| instance.done() - before).sum();
            (done >= 2_000).then_some(())
        })
        .await;
        if wave < 3 {
            let done = |index: usize| instances[index].done() - before[index];
            let busier = usize::from(done(1) > done(0));
            instances.swap_remove(busier).kill();
            instances.push(Instance::start(&world, &text, &ledger, wave + 2).ready().await);
        }
        let last = *numbers.end();
        eventually("the wave has ended", || async {
            let ledger = ledger.lock().expect("not poisoned");
            let all = ledger.ended.len() as u64 == KEYS && ledger.ended.values().all(|number| *number == last);
            (all || !ledger.violations.is_empty()).then_some(())
        })
        .await;
        assert_eq!(ledger.lock().expect("not poisoned").violations, Vec::<String>::new());
    }
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await.len() as u64;
    assert_eq!(check_outputs(&world).await as u64 + letters, total);
    let ledger = ledger.lock().expect("not poisoned");
    println!("{order}: {} ran twice, {} at once, {:?}", ledger.repeats, ledger.most_at_once, ledger.work);
    assert!(ledger.most_at_once > 4, "{} keys ran at once", ledger.most_at_once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_partitions_keys_stay_in_order_while_instances_are_killed() {
    keys_stay_in_order_while_instances_are_killed(PARTITIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_queues_keys_stay_in_order_while_the_active_instance_is_killed() {
    keys_stay_in_order_while_instances_are_killed(QUEUES).await;
}

#[tokio::test]
async fn a_partitioned_event_is_the_one_that_was_published() {
    let world = World::in_and_out().await;
    let running = world.run(&manifest(PARTITIONS), |event| completed(&[output("out.a", &event.id)])).ready().await;
    for key in ["a", "b", "k17"] {
        world.publish(&format!("in.{key}"), &[("X-Own", key), (headers::ATTEMPT, "9")], "payload").await;
    }
    let events = running.wait_for_calls(3).await;
    let created = world.context.get_stream("IN").await.expect("the stream").cached_info().created.unix_timestamp();
    for (nth, key) in [(1, "a"), (2, "b"), (3, "k17")] {
        let event = events.iter().find(|event| event.subject == format!("in.{key}")).expect("the event");
        assert_eq!(event.id, format!("IN@{}:{nth}", created * 1000));
        assert_eq!(event.headers, [("X-Own".to_owned(), key.to_owned())]);
        assert_eq!(event.attempt.get(), 1);
    }
    // The server has put them where we say that it does.
    let partitions = world.context.get_stream("TIDEMILL_ORDER_H").await.expect("the partitions");
    for key in ["a", "b", "k17"] {
        let number = tidemill_policy::order::partition(key, 16);
        let consumer = partitions.consumer_info(format!("tidemill-h-p{number}")).await.expect("its consumer");
        assert!(consumer.delivered.consumer_sequence > 0, "{key} is not in partition {number}");
    }
    running.drain().await.expect("drains");
}

/// What one handler was called with: key and number of each event, with the attempt.
async fn calls(running: &crate::support::Running, count: usize) -> Vec<String> {
    let events = running.wait_for_calls(count).await;
    events
        .iter()
        .map(|event| {
            let task: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
            format!("{}{}.{}", task["key"].as_str().expect("a key"), task["number"], event.attempt)
        })
        .collect()
}

async fn send(world: &World, key: &str, number: u64) {
    let task = serde_json::json!({ "key": key, "number": number });
    world.publish(&format!("in.{key}"), &[], task.to_string()).await;
}

fn is_first_of_a(event: &Event) -> bool {
    event.payload.as_ref() == br#"{"key":"a","number":1}"#
}

/// Fails the first attempts at the first event of key a.
fn stubborn(event: &Event) -> Outcome {
    let is_first = is_first_of_a(event);
    if is_first && event.attempt.get() < 3 { retry("not yet") } else { completed(&[]) }
}

#[tokio::test]
async fn a_failing_event_holds_back_its_own_key_only() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        // One slot: whoever waits for the next attempt does not keep it.
        let text = manifest(order)
            .replace("concurrency = 32", "concurrency = 1")
            .replace("initial = '5ms', max = '20ms'", "initial = '500ms', max = '500ms'");
        let running = world.run(&text, stubborn).ready().await;
        for (key, number) in [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("b", 2)] {
            send(&world, key, number).await;
        }
        let calls = calls(&running, 7).await;
        let of = |key: &str| calls.iter().filter(|call| call.starts_with(key)).cloned().collect::<Vec<_>>();
        assert_eq!(of("a"), ["a1.1", "a1.2", "a1.3", "a2.1"], "{order}");
        assert_eq!(of("b"), ["b1.1", "b2.1"], "{order}");
        let place = |call: &str| calls.iter().position(|one| one == call).expect("called");
        assert!(place("b2.1") < place("a1.2") && place("c1.1") < place("a1.2"), "{order}: {calls:?}");
        assert_eq!(world.messages("TIDEMILL_RETRY").await.len(), 0, "{order}: retries are made in place");
        running.drain().await.expect("drains");
    }
}

/// An attempt that was made before the instance stopped counts, and its error is in the history.
#[tokio::test]
async fn attempts_of_an_event_that_waits_in_place_survive_its_instance() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let text = manifest(order).replace("initial = '5ms', max = '20ms'", "initial = '1h', max = '1h'");
        let running = world.run(&text, |_| retry("first")).ready().await;
        send(&world, "a", 1).await;
        send(&world, "a", 2).await;
        running.wait_for_calls(1).await;
        // The failure is recorded before the wait begins.
        world.wait_for("KV_tidemill_done", 1).await;
        running.drain().await.expect("drains");
        let running =
            world.run(&text, |event| if event.attempt.get() == 1 { completed(&[]) } else { reject("second") });
        let running = running.ready().await;
        assert_eq!(calls(&running, 2).await, ["a1.2", "a2.1"], "{order}");
        let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        let errors: serde_json::Value = serde_json::from_str(&letters[0].headers[headers::ERRORS]).expect("JSON");
        let kinds: Vec<_> = errors.as_array().expect("a list").iter().map(|error| error["kind"].clone()).collect();
        assert_eq!(kinds, ["retry", "reject"], "{order}");
        running.drain().await.expect("drains");
    }
}

/// Stopped in good order, an instance hands over at once and nothing runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_hands_over_in_order() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let text = manifest(order).replace("ack_wait = '2s'", "ack_wait = '60s'");
        let first = Instance::start(&world, &text, &ledger, 0).ready().await;
        publish(&world, 100, 1..=20).await;
        eventually("the first one works", || async { (first.done() > 200).then_some(()) }).await;
        let second = Instance::start(&world, &text, &ledger, 1).ready().await;
        first.drain().await;
        eventually("all have ended", || async {
            let ledger = ledger.lock().expect("not poisoned");
            let all = ledger.ended.len() == 100 && ledger.ended.values().all(|number| *number == 20);
            (all || !ledger.violations.is_empty()).then_some(())
        })
        .await;
        {
            let ledger = ledger.lock().expect("not poisoned");
            assert_eq!((&ledger.violations, ledger.repeats), (&Vec::new(), 0), "{order}");
        }
        check_outputs(&world).await;
        second.drain().await;
    }
}

#[tokio::test]
async fn a_replayed_dead_letter_comes_back_to_its_key() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let script = |event: &Event| {
            let is_first = is_first_of_a(event);
            if is_first && event.headers.is_empty() {
                reject("never")
            } else {
                completed(&[output("out.a", &event.id)])
            }
        };
        let running = world.run(&manifest(order), script).ready().await;
        send(&world, "a", 1).await;
        send(&world, "a", 2).await;
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        let desk = crate::cli::Desk::with(&format!("{}[nats]\nurl = '{}'\n", manifest(order), world.server.url));
        desk.run(&["dlq", "replay", "--all", "--handler", "h"]).succeeds();
        let calls = calls(&running, 3).await;
        assert_eq!(calls.last().map(String::as_str), Some("a1.1"), "{order}: {calls:?}");
        let ids: HashSet<_> = running.seen().iter().map(|event| event.id.clone()).collect();
        assert_eq!(ids.len(), 2, "{order}: a replay is the same event");
        let status = desk.run(&["status", "--output", "json"]).succeeds().json();
        assert!(status[0]["waiting"].is_u64(), "{order}: {status}");
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn partitions_are_not_changed_behind_the_back_of_events_that_wait_in_them() {
    let world = World::in_and_out().await;
    world.run(&manifest(PARTITIONS), |_| completed(&[])).ready().await.drain().await.expect("drains");
    let more = manifest(&PARTITIONS.replace("16", "32"));
    let error = world.run(&more, |_| completed(&[])).end().await.expect_err("refused").to_string();
    for part in
        ["handler.h", "TIDEMILL_ORDER_H", "partition(16,1)", "partition(32,1)", "nats stream rm TIDEMILL_ORDER_H"]
    {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    let desk = crate::cli::Desk::with(&format!("{more}[nats]\nurl = '{}'\n", world.server.url));
    let check = desk.run(&["check", "--server"]);
    assert!(format!("{check:?}").contains("was made for other partitions"), "{check:?}");
}

#[tokio::test]
async fn a_stream_that_forgets_what_is_read_has_no_partitions() {
    let world = World::start().await;
    let config = async_nats::jetstream::stream::Config {
        name: "IN".into(),
        subjects: vec!["in.>".into()],
        retention: async_nats::jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    world.context.create_stream(config).await.expect("a stream");
    world.stream("OUT", &["out.>"]).await;
    let error = world.run(&manifest(PARTITIONS), |_| completed(&[])).end().await.expect_err("refused").to_string();
    assert!(error.contains("say order.form = \"queues\""), "{error}");
    let queues = manifest(&PARTITIONS.replace("partitions = 16", "form = 'queues'"));
    let running = world.run(&queues, |_| completed(&[])).ready().await;
    send(&world, "a", 1).await;
    running.wait_for_calls(1).await;
    running.drain().await.expect("drains");
}

/// The events behind one that was given up on wait until it was replayed with success, or discarded.
#[tokio::test]
async fn a_key_can_be_held_up_behind_an_event_that_was_given_up_on() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let text =
            manifest(&order.replace(" }", ", on_failure = 'park' }")).replace("concurrency = 32", "concurrency = 1");
        let is_mended = Arc::new(AtomicBool::new(false));
        let mended = Arc::clone(&is_mended);
        let script = move |event: &Event| {
            let is_first = is_first_of_a(event);
            if is_first && !mended.load(Ordering::SeqCst) { reject("broken") } else { completed(&[]) }
        };
        let running = world.run(&text, script).ready().await;
        let desk = crate::cli::Desk::with(&format!("{text}[nats]\nurl = '{}'\n", world.server.url));
        for (key, number) in [("a", 1), ("a", 2), ("b", 1), ("a", 3), ("b", 2)] {
            send(&world, key, number).await;
        }
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        let first: HashSet<_> = calls(&running, 3).await.into_iter().collect();
        assert_eq!(first, ["a1.1", "b1.1", "b2.1"].map(str::to_owned).into(), "{order}");
        // Another failure holds it up further.
        desk.run(&["dlq", "replay", "--all", "--handler", "h"]).succeeds();
        assert_eq!(calls(&running, 4).await[3], "a1.1", "{order}");
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        // Neither an instance that takes over nor time lets the others go first.
        running.drain().await.expect("drains");
        let mended = Arc::clone(&is_mended);
        let script = move |event: &Event| {
            let is_first = is_first_of_a(event);
            if is_first && !mended.load(Ordering::SeqCst) { reject("broken") } else { completed(&[]) }
        };
        let running = world.run(&text, script).ready().await;
        is_mended.store(true, Ordering::SeqCst);
        desk.run(&["dlq", "replay", "--all", "--handler", "h"]).succeeds();
        assert_eq!(calls(&running, 3).await, ["a1.1", "a2.1", "a3.1"], "{order}");
        // Discarded, it lets them go as well.
        is_mended.store(false, Ordering::SeqCst);
        send(&world, "a", 1).await;
        send(&world, "a", 4).await;
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        desk.run(&["dlq", "discard", "--all", "--handler", "h", "--yes"]).succeeds();
        assert_eq!(calls(&running, 5).await[3..], ["a1.1", "a4.1"], "{order}");
        running.drain().await.expect("drains");
    }
}

/// An older letter of the event that was kept says nothing about the key.
#[tokio::test]
async fn a_key_stays_held_up_when_an_older_dead_letter_is_discarded() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let text = manifest(&order.replace(" }", ", on_failure = 'park' }"));
        let script = |event: &Event| if is_first_of_a(event) { reject("broken") } else { completed(&[]) };
        let running = world.run(&text, script).ready().await;
        let desk = crate::cli::Desk::with(&format!("{text}[nats]\nurl = '{}'\n", world.server.url));
        for (key, number) in [("a", 1), ("a", 2)] {
            send(&world, key, number).await;
        }
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        desk.run(&["dlq", "replay", "1", "--keep"]).succeeds();
        world.wait_for("TIDEMILL_DEADLETTER", 2).await;
        assert_eq!(calls(&running, 2).await, ["a1.1", "a1.1"], "{order}");
        desk.run(&["dlq", "discard", "1"]).succeeds();
        let records = world.messages("KV_tidemill_done").await;
        let parked = |one: &crate::support::Stored| String::from_utf8_lossy(&one.payload).contains("\"parked\"");
        assert!(records.iter().any(parked), "{order}");
        desk.run(&["dlq", "discard", "2"]).succeeds();
        assert_eq!(calls(&running, 3).await[2], "a2.1", "{order}");
        running.drain().await.expect("drains");
    }
}

/// Nobody can replay or discard a dead letter that is not there.
#[tokio::test]
async fn a_key_that_is_held_up_by_an_event_whose_dead_letter_was_purged_goes_on() {
    for order in [PARTITIONS, QUEUES] {
        let world = World::in_and_out().await;
        let text = manifest(&order.replace(" }", ", on_failure = 'park' }"));
        let script = |event: &Event| if is_first_of_a(event) { reject("broken") } else { completed(&[]) };
        let running = world.run(&text, script).ready().await;
        for (key, number) in [("a", 1), ("a", 2), ("b", 1)] {
            send(&world, key, number).await;
        }
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        let held_up: HashSet<_> = calls(&running, 2).await.into_iter().collect();
        assert_eq!(held_up, ["a1.1", "b1.1"].map(str::to_owned).into(), "{order}");
        let letters = world.context.get_stream("TIDEMILL_DEADLETTER").await.expect("the stream");
        letters.purge().await.expect("purged");
        assert_eq!(calls(&running, 3).await[2], "a2.1", "{order}");
        running.drain().await.expect("drains");
    }
}

/// What an instance had in flight when it died must be in hand before its successor may begin, also where that is more
/// than the successor may have.
#[tokio::test]
async fn a_successor_that_may_have_less_in_flight_takes_over_in_order() {
    let world = World::in_and_out().await;
    let ledger = Arc::<Mutex<Ledger>>::default();
    let with = |in_flight: &str| format!("[runtime]\nin_flight = '{in_flight}'\n{}", manifest(QUEUES));
    let first = Instance::start(&world, &with("64MiB"), &ledger, 1).ready().await;
    first.recorder.is_dead.store(true, Ordering::SeqCst);
    let filler = "x".repeat(500_000);
    for number in 1..=20_u64 {
        let task =
            serde_json::json!({ "key": format!("k{}", number % 2), "number": number.div_ceil(2), "rest": filler });
        world.publish("in.k", &[], task.to_string()).await;
    }
    let in_hand =
        |instance: &Instance| instance.status.report().instance.in_flight_bytes.map_or(0, |bytes| bytes.in_hand);
    eventually("all is in flight", || async { (in_hand(&first) > 10_000_000).then_some(()) }).await;
    first.kill();
    let second = Instance::start(&world, &with("1MiB"), &ledger, 2);
    world.wait_for("OUT", 20).await;
    assert_eq!(check_outputs(&world).await, 20);
    assert!(ledger.lock().expect("not poisoned").violations.is_empty());
    second.drain().await;
}
