//! The circuit breaker, the outage brake and the rate limit, on a real server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidemill::gate::GateReport;
use tidemill_policy::event::Event;
use tidemill_policy::outcome::Outcome;

use crate::cli::Desk;
use crate::support::{Running, World, completed, eventually, output, retry};

/// What a handler depends on, and may be down.
#[derive(Clone, Default)]
struct Downstream {
    is_down: Arc<AtomicBool>,
    /// When each attempt failed.
    failures: Arc<Mutex<Vec<Instant>>>,
}

impl Downstream {
    fn down() -> Downstream {
        let downstream = Downstream::default();
        downstream.is_down.store(true, Ordering::SeqCst);
        downstream
    }

    fn come_back(&self) {
        self.is_down.store(false, Ordering::SeqCst);
    }

    fn script(&self) -> impl Fn(&Event) -> Outcome + Send + Sync + 'static {
        let downstream = self.clone();
        move |event| {
            if downstream.is_down.load(Ordering::SeqCst) {
                downstream.failures.lock().expect("not poisoned").push(Instant::now());
                return retry("the downstream does not answer");
            }
            completed(&[output("out.a", &event.id)])
        }
    }

    fn failures(&self) -> Vec<Instant> {
        self.failures.lock().expect("not poisoned").clone()
    }

    async fn wait_for_failures(&self, count: usize) {
        eventually(&format!("{count} failures"), || async { (self.failures().len() >= count).then_some(()) }).await;
    }
}

fn gate(running: &Running) -> GateReport {
    running.status.report().handlers["h"].gate.clone().expect("a gate")
}

async fn wait_for_breaker(running: &Running, state: &str) {
    eventually(&format!("the breaker is {state}"), || async { (gate(running).breaker == state).then_some(()) }).await;
}

async fn publish(world: &World, count: usize) {
    for number in 0..count {
        world.publish("in.x", &[], format!("{number}")).await;
    }
}

/// Whether the server can hold consumers back itself.
fn can_pause(world: &World) -> bool {
    world.client.server_info().version.as_str() >= "2.11"
}

async fn is_paused(world: &World, stream: &str, consumer: &str) -> bool {
    let stream = world.context.get_stream_no_info(stream).await.expect("the stream");
    stream.consumer_info(consumer).await.expect("the consumer").paused
}

const CONSUMERS: [(&str, &str); 2] = [("IN", "tidemill-h"), ("TIDEMILL_RETRY", "tidemill-h-retry")];

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_for_a_while_tries_one_event_and_closes_when_that_succeeds() {
    let world = World::in_and_out().await;
    let downstream = Downstream::down();
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nconcurrency = 1\nallow.publish = ['out.>']\n\
                    outage_brake = false\nretry = { initial = '10ms', max = '20ms', in_memory = '0s' }\n\
                    circuit_breaker = { failures = 3, open_for = '1s', open_max = '1s', successes = 2 }";
    let running = world.run(manifest, downstream.script()).ready().await;
    publish(&world, 20).await;
    wait_for_breaker(&running, "open").await;
    if can_pause(&world) {
        eventually("the consumers are paused", || async {
            let mut paused = true;
            for (stream, consumer) in CONSUMERS {
                paused &= is_paused(&world, stream, consumer).await;
            }
            paused.then_some(())
        })
        .await;
    }
    // Three in a row, and then one event at a time, each after the breaker was open for a second.
    downstream.wait_for_failures(6).await;
    downstream.come_back();
    world.wait_for("OUT", 20).await;
    for (stream, consumer) in CONSUMERS {
        world.wait_until_settled(stream, consumer).await;
        assert!(!can_pause(&world) || !is_paused(&world, stream, consumer).await);
    }
    wait_for_breaker(&running, "closed").await;
    let failures = downstream.failures();
    for pair in failures[2..].windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(990), "{:?}", pair[1] - pair[0]);
    }
    assert!(world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    assert_eq!(running.seen().len(), 20 + failures.len(), "each attempt succeeded, or was one of these");
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_holds_for_other_instances_and_restarts_until_it_is_closed_by_hand() {
    let world = World::in_and_out().await;
    let downstream = Downstream::down();
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.publish = ['out.>']\nconcurrency = 4\n\
                    retry = { initial = '10ms', max = '20ms', in_memory = '0s' }\n\
                    circuit_breaker = { failures = 2, open_for = '1h', open_max = '1h' }\n";
    let desk = Desk::with(&format!("{manifest}\n[nats]\nurl = '{}'\n", world.server.url));
    let run = |command: &str| desk.run(&command.split_whitespace().collect::<Vec<_>>());
    let first = world.run(manifest, downstream.script()).ready().await;
    let second = world.run(manifest, downstream.script()).ready().await;
    publish(&world, 40).await;
    wait_for_breaker(&first, "open").await;
    wait_for_breaker(&second, "open").await;
    first.drain().await.expect("drains");
    second.drain().await.expect("drains");
    let failed = downstream.failures().len();
    assert!(failed <= 10, "what ran already is finished, and no more: {failed}");

    // Whoever starts now takes nothing, and what operators see is the same.
    downstream.come_back();
    let third = world.run(manifest, downstream.script()).ready().await;
    wait_for_breaker(&third, "open").await;
    let shown = run("breaker --output json").succeeds().json();
    assert_eq!((shown[0]["handler"].as_str(), shown[0]["state"].as_str()), (Some("h"), Some("open")), "{shown}");
    assert_eq!(shown[0]["reason"], "2 attempts in a row have failed");
    let status = run("status").succeeds().stdout.clone();
    assert!(status.contains("h: the circuit breaker is open, ends in"), "{status}");
    assert!(third.seen().is_empty());
    assert!(!can_pause(&world) || is_paused(&world, "IN", "tidemill-h").await);

    run("breaker h close").succeeds();
    world.wait_for("OUT", 40).await;
    for (stream, consumer) in CONSUMERS {
        world.wait_until_settled(stream, consumer).await;
    }
    wait_for_breaker(&third, "closed").await;
    assert!(world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    let attempts: u32 = third.seen().iter().map(|event| event.attempt.get() - 1).sum();
    assert_eq!(attempts as usize, failed, "what waited and was handed back cost no attempt");
    third.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_a_breaker_can_be_stopped_by_hand() {
    let world = World::in_and_out().await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.publish = ['out.>']\n";
    let desk = Desk::with(&format!("{manifest}\n[nats]\nurl = '{}'\n", world.server.url));
    let running = world.run(manifest, Downstream::default().script()).ready().await;
    let shown =
        desk.run(&["breaker", "h", "open", "--reason", "the relay moves", "--output", "json"]).succeeds().json();
    assert_eq!((shown[0]["state"].as_str(), shown[0]["until"].as_str()), (Some("held"), None), "{shown}");
    wait_for_breaker(&running, "held").await;
    assert_eq!(gate(&running).reason, "the relay moves");
    publish(&world, 5).await;
    // Another instance is held as well, before it pulls.
    running.drain().await.expect("drains");
    let running = world.run(manifest, Downstream::default().script()).ready().await;
    wait_for_breaker(&running, "held").await;
    assert!(running.seen().is_empty());
    desk.run(&["breaker", "h", "open", "--for", "2s"]).succeeds();
    world.wait_for("OUT", 5).await;
    assert!(running.seen().iter().all(|event| event.attempt.is_first()));
    wait_for_breaker(&running, "closed").await;
    let wrong = desk.run(&["breaker", "h", "open", "--for", "2 fortnights"]);
    assert!(wrong.stderr.contains("must be a duration with a unit"), "{}", wrong.stderr);
    running.drain().await.expect("drains");
}

/// More events than a brake that does not work would leave.
const EVENTS: usize = 5_000;

/// An outage far longer than all retries take: 5,000 events arrive, and nothing can be done about any of them.
async fn outage(brake: bool) -> (World, Downstream, Running) {
    let world = World::in_and_out().await;
    let manifest = format!(
        "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.publish = ['out.>']\noutage_brake = {brake}\n\
         retry = {{ initial = '10ms', max = '20ms' }}"
    );
    publish(&world, EVENTS).await;
    let downstream = Downstream::down();
    let running = world.run(&manifest, downstream.script()).ready().await;
    (world, downstream, running)
}

fn dead(running: &Running) -> u64 {
    running.status.report().handlers["h"].counts.dead_lettered
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_far_longer_than_all_retries_costs_hardly_an_event() {
    let (world, downstream, running) = outage(true).await;
    eventually("the brake is on", || async { gate(&running).brake.filter(|brake| brake.failures >= 30) }).await;
    let failed = downstream.failures();
    // A probe follows a probe after a pause, not as fast as it can.
    let probes = &failed[failed.len() - 20..];
    assert!(probes[19] - probes[0] >= Duration::from_millis(19 * 90), "{:?}", probes[19] - probes[0]);
    downstream.come_back();
    eventually("all is done", || async {
        let handled = running.status.report().handlers["h"].counts.handled;
        (handled + dead(&running) == EVENTS as u64).then_some(())
    })
    .await;
    assert!(gate(&running).brake.is_none(), "{:?}", gate(&running));
    let letters = world.messages("TIDEMILL_DEADLETTER").await.len();
    assert!(letters < EVENTS / 100, "{letters} dead letters");
    assert_eq!(world.messages("OUT").await.len() + letters, EVENTS);
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_brake_the_same_outage_fills_the_dead_letters() {
    let (_world, _downstream, running) = outage(false).await;
    eventually("most are dead letters", || async { (dead(&running) > EVENTS as u64 * 9 / 10).then_some(()) }).await;
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_over_all_instances_and_leaves_events_with_the_broker() {
    const RATE: f64 = 40.0;
    const BURST: u32 = 5;
    let world = World::in_and_out().await;
    for across in ["instance", "instances"] {
        let manifest = format!(
            "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.publish = ['out.>']\nconcurrency = 100\n\
             rate_limit = {{ rate = '40/s', burst = {BURST}, across = '{across}' }}"
        );
        let begun: Arc<Mutex<Vec<(usize, Instant)>>> = Arc::default();
        let in_hand = Arc::new(AtomicUsize::new(0));
        let script = |instance: usize| {
            let begun = Arc::clone(&begun);
            move |_: &Event| {
                begun.lock().expect("not poisoned").push((instance, Instant::now()));
                completed(&[])
            }
        };
        let instances = [world.run(&manifest, script(0)).ready().await, world.run(&manifest, script(1)).ready().await];
        publish(&world, 200).await;
        eventually("all are handled", || async {
            let pending = instances.iter().map(|one| one.status.report().handlers["h"].in_flight).sum::<u64>();
            in_hand.fetch_max(usize::try_from(pending).expect("fits"), Ordering::SeqCst);
            (begun.lock().expect("not poisoned").len() == 200).then_some(())
        })
        .await;
        for one in instances {
            one.drain().await.expect("drains");
        }
        assert!(in_hand.load(Ordering::SeqCst) <= 2 * 2 * 11, "{in_hand:?} in hand");
        let begun = begun.lock().expect("not poisoned").clone();
        let limited: Vec<Vec<Instant>> = match across {
            "instance" => (0..2).map(|number| of(&begun, |instance| instance == number)).collect(),
            _ => vec![of(&begun, |_| true)],
        };
        // A beginning of a shared limit that was asked for late may be used late.
        let slack = if across == "instance" { 0.05 } else { 1.1 };
        for starts in limited {
            for (first, from) in starts.iter().enumerate() {
                for (last, to) in starts.iter().enumerate().skip(first) {
                    let count = f64::from(u32::try_from(last - first + 1).expect("few"));
                    let span = (*to - *from).as_secs_f64();
                    assert!(count <= 1.0 + f64::from(BURST) + RATE * (span + slack), "{count} in {span} s, {across}");
                }
            }
        }
    }
}

fn of(begun: &[(usize, Instant)], is_wanted: impl Fn(usize) -> bool) -> Vec<Instant> {
    let mut starts: Vec<_> = begun.iter().filter(|(number, _)| is_wanted(*number)).map(|(_, at)| *at).collect();
    starts.sort();
    starts
}
