//! Many instances on a NATS cluster: work is shared, and neither an instance nor a leader that dies costs an event,
//! an effect or the order.

mod fleet;
mod nodes;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::{markers, streams};
use tidemill_policy::event::Event;
use tidemill_policy::manifest::{Auth, Manifest};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::fleet::Fleet;
use self::nodes::{Cluster, SIDE_BY_SIDE};
use crate::order::{Instance, Ledger, check_order};
use crate::support::{completed, eventually, output, parse, run_at};

const PROCESSES: &str = "
[defaults]
ack_wait = '2s'
limits.timeout = '1s'
allow.publish = ['out.>']
[handler.plain]
component = 'echo.wasm'
subject = 'in.plain'
stream = 'IN'
[handler.once]
component = 'echo.wasm'
subject = 'in.once'
stream = 'IN'
dedup = { key = 'id' }
";

/// Events for both handlers, of which the numbers go on where the last ones ended.
struct Feed {
    published: Vec<String>,
}

impl Feed {
    /// Publishes events in the background.
    fn publish(&mut self, cluster: &Cluster, count: usize) -> JoinHandle<()> {
        let start = self.published.len();
        let payload = |number| format!("{}/{number}", if number % 2 == 0 { "plain" } else { "once" });
        let payloads: Vec<_> = (start..start + count).map(payload).collect();
        self.published.extend(payloads.iter().cloned());
        let subject = |payload: &str| format!("in.{}", payload.split_once('/').expect("a handler").0);
        cluster.publish(payloads.into_iter().map(|payload| (subject(&payload), payload)).collect(), SIDE_BY_SIDE)
    }

    /// Waits until all that was published has been handled, each event once.
    async fn check(&self, cluster: &Cluster) {
        cluster.wait_for("OUT", self.published.len()).await;
        for handler in ["plain", "once"] {
            cluster.wait_until_settled("IN", &format!("tidemill-{handler}")).await;
        }
        let outputs = cluster.payloads("OUT").await;
        assert_eq!(outputs.len(), self.published.len(), "each output is stored once");
        assert_eq!(
            outputs.iter().collect::<HashSet<_>>(),
            self.published.iter().collect(),
            "each event has its output"
        );
        assert_eq!(cluster.count("TIDEMILL_DEADLETTER").await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_the_work_and_lose_nothing_when_one_of_them_or_a_leader_is_killed() {
    let mut cluster = Cluster::start().await;
    let mut fleet = Fleet::new(&format!("{}{PROCESSES}", cluster.table()));
    let mut feed = Feed { published: Vec::new() };
    for count in [1, 2, 4] {
        while fleet.instances("plain").len() < count {
            fleet.start().await;
        }
        feed.publish(&cluster, 600).await.expect("published");
        feed.check(&cluster).await;
        let handled: Vec<_> =
            fleet.instances("plain").iter().map(|one| one["handled"].as_u64().expect("a count")).collect();
        println!("{count} instances handled {handled:?}");
        assert!(handled.len() == count && handled.iter().all(|&handled| handled > 0), "{handled:?}");
    }
    let publishing = feed.publish(&cluster, 3_000);
    cluster.wait_for("OUT", 2_000).await;
    fleet.kill().await;
    for (stream, progress) in [("IN", 2_500), ("OUT", 3_500)] {
        cluster.wait_for("OUT", progress).await;
        let leader = cluster.leader(stream).await;
        cluster.kill(&leader).await;
        let died = std::time::Instant::now();
        cluster.wait_for("OUT", progress + 500).await;
        println!("without the leader of {stream}, 500 events took {:?}", died.elapsed());
        cluster.mend(&["IN", "OUT", "KV_tidemill_done"]).await;
    }
    publishing.await.expect("published");
    feed.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_event() {
    let cluster = Cluster::start().await;
    let mut fleet = Fleet::new(&format!("{}{PROCESSES}", cluster.table()));
    for _ in 0..3 {
        fleet.start().await;
    }
    let mut feed = Feed { published: Vec::new() };
    let done = CancellationToken::new();
    let restart = async {
        for _ in 0..3 {
            let before = cluster.count("OUT").await.expect("a count");
            cluster.wait_for("OUT", usize::try_from(before).expect("fits") + 100).await;
            fleet.stop().await;
            fleet.start().await;
        }
        done.cancel();
    };
    let publish = async {
        while !done.is_cancelled() {
            feed.publish(&cluster, 200).await.expect("published");
            // Some wait all the time.
            cluster.wait_for("OUT", feed.published.len().saturating_sub(400)).await;
        }
    };
    tokio::join!(restart, publish);
    feed.check(&cluster).await;
    assert_eq!(cluster.last_sequence("TIDEMILL_RETRY").await, Some(0), "there never was a retry");
    let logs = fleet.logs();
    let lines = logs.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let attempts: Vec<_> =
        lines.filter(|line| line["message"] == "handled").map(|line| line["attempt"].clone()).collect();
    println!("{} events were handled during the restart", attempts.len());
    assert_eq!(attempts.len(), feed.published.len(), "each event ran once");
    let lost = attempts.iter().filter(|attempt| **attempt != 1).count();
    assert_eq!(lost, 0, "attempts were lost");
}

/// Both forms side by side, the killed instance and the killed leaders in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stay_in_order_when_an_instance_or_a_leader_is_killed() {
    const KEYS: u64 = 40;
    let mut cluster = Cluster::start().await;
    let manifest = format!(
        "{}[defaults]\nallow.publish = ['out.>']\nack_wait = '3s'\nlimits.timeout = '1s'\n\
         [handler.p]\nsubject = 'in.p.*'\nstream = 'IN'\norder = {{ by = 'key', key = 'subject:3', partitions = 8 }}\n\
         [handler.q]\nsubject = 'in.q.*'\nstream = 'IN'\norder = {{ by = 'key', key = 'json:/key' }}\n",
        cluster.table()
    );
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let mut instances = Vec::new();
    for number in 0..3 {
        instances.push(Instance::start_at(cluster.urls(), &manifest, &ledger, number).ready().await);
    }
    let ended = |number: u64| {
        let ledger = ledger.lock().expect("not poisoned");
        assert_eq!(ledger.violations, Vec::<String>::new());
        (ledger.ended.values().filter(|last| **last >= number).count() as u64 == 2 * KEYS).then_some(())
    };
    let mut last = 0;
    for what in ["an instance", "IN", "TIDEMILL_ORDER_P", "KV_tidemill_done"] {
        let numbers = last + 1..=last + 25;
        last = *numbers.end();
        let half = last - 12;
        // One event of each key.
        let side_by_side = usize::try_from(2 * KEYS).expect("fits");
        let events = numbers.flat_map(|number| {
            let event = move |key: u64, form| {
                let task = serde_json::json!({ "key": format!("{form}{key}"), "number": number });
                (format!("in.{form}.{form}{key}"), task.to_string())
            };
            (0..KEYS).flat_map(move |key| [event(key, 'p'), event(key, 'q')])
        });
        let publishing = cluster.publish(events.collect(), side_by_side);
        eventually("half of it is done", || async { ended(half) }).await;
        let since = std::time::Instant::now();
        if what == "an instance" {
            let busiest = (0..instances.len()).max_by_key(|&index| instances[index].done()).expect("one");
            instances.swap_remove(busiest).kill();
        } else {
            let leader = cluster.leader(what).await;
            cluster.kill(&leader).await;
        }
        publishing.await.expect("published");
        eventually("all of it is done", || async { ended(last) }).await;
        println!("with {what} killed, the rest took {:?}", since.elapsed());
        cluster.mend(&["IN", "OUT", "TIDEMILL_ORDER_P", "KV_tidemill_done"]).await;
    }
    let count = usize::try_from(last * KEYS * 2).expect("fits");
    cluster.wait_for("OUT", count).await;
    assert_eq!(check_order(cluster.payloads("OUT").await), count);
    assert_eq!(cluster.count("TIDEMILL_DEADLETTER").await, Some(0));
}

/// While the leader of the events is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_is_for_one_instance_and_broadcast_for_all_of_them() {
    const COUNT: usize = 400;
    let mut cluster = Cluster::start().await;
    // Claims are from 2.11 on.
    let client = async_nats::connect(cluster.urls()).await.expect("a connection");
    let claims = client.server_info().version.as_str() >= "2.11";
    let manifest = format!(
        "{}[defaults]\nallow.publish = ['out.>']\nack_wait = '2s'\nlimits.timeout = '1s'\n\
         [handler.all]\nsubject = 'in.all'\nstream = 'IN'\nmode = 'broadcast'\n\
         [handler.one]\nsubject = 'in.one'\nstream = 'IN'\n\
         [handler.claimed]\nsubject = 'in.claimed'\nstream = 'IN'\ndedup = {{ key = 'id', claim = {claims} }}\n",
        cluster.table()
    );
    let script = |event: &Event| match event.subject.as_str() {
        "in.all" => completed(&[]),
        _ => completed(&[output("out.a", std::str::from_utf8(&event.payload).expect("text"))]),
    };
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(run_at(&cluster.urls().join(","), &manifest, script).ready().await);
    }
    let events = |numbers: std::ops::Range<usize>| {
        let event = |number| ["all", "one", "claimed"].map(|to| (format!("in.{to}"), format!("{to}/{number}")));
        numbers.flat_map(event).collect()
    };
    let publishing = cluster.publish(events(0..COUNT), SIDE_BY_SIDE);
    cluster.wait_for("OUT", COUNT / 2).await;
    let leader = cluster.leader("IN").await;
    cluster.kill(&leader).await;
    publishing.await.expect("published");
    cluster.wait_for("OUT", 2 * COUNT).await;
    let seen = |subject: &str| -> Vec<Vec<String>> {
        let text = |event: Event| String::from_utf8_lossy(&event.payload).into_owned();
        let of = |events: Vec<Event>| events.into_iter().filter(|event| event.subject == subject).map(text).collect();
        instances.iter().map(|instance| of(instance.seen())).collect()
    };
    eventually("every instance has every event", || async {
        let distinct = |seen: &Vec<String>| seen.iter().collect::<HashSet<_>>().len();
        seen("in.all").iter().all(|seen| distinct(seen) == COUNT).then_some(())
    })
    .await;
    for handler in ["one", "claimed"] {
        cluster.wait_until_settled("IN", &format!("tidemill-{handler}")).await;
        let shares: Vec<_> = seen(&format!("in.{handler}")).iter().map(Vec::len).collect();
        println!("{handler}: {shares:?}");
        assert!(shares.iter().all(|&share| share > 0), "{handler}: {shares:?}");
    }
    let outputs = cluster.payloads("OUT").await;
    assert_eq!((outputs.len(), outputs.iter().collect::<HashSet<_>>().len()), (2 * COUNT, 2 * COUNT));
    for instance in instances {
        instance.drain().await.expect("drains");
    }
}

/// A replica that was held up for a while answers direct gets with what it knew before. What is remembered of an event
/// must be what was written last all the same, also for an instance that is connected to that server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_is_read_as_it_was_written_last_also_beside_a_replica_that_is_behind() {
    let cluster = Cluster::start().await;
    let manifest = parse(&format!("{}[handler.h]\nsubject = 'in.*'\nstream = 'IN'\n", cluster.table()));
    let mut nats = connect(cluster.urls()).await;
    streams::prepare(&mut nats, &manifest).await.expect("our streams");
    let leader = cluster.leader("KV_tidemill_done").await;
    let behind = cluster.names().into_iter().find(|name| *name != leader).expect("a replica");
    let writer = prepared(cluster.url(&leader), &manifest).await;
    let reader = prepared(cluster.url(&behind), &manifest).await;
    let write = async |revision| {
        let value = bytes::Bytes::from_static(b"{}");
        markers::replace(&writer, "k", value, Duration::from_mins(1), revision).await.expect("written")
    };
    let revision = write(0).await;
    assert_eq!(markers::read(&reader, "k").await.expect("read").revision, revision);
    let ahead: Vec<_> = cluster.names().into_iter().filter(|name| *name != behind).collect();
    let signal = async |signal| {
        for name in &ahead {
            cluster.signal(name, signal).await;
        }
    };
    // A replica answers direct gets some time after it was made.
    eventually("the replica answers direct gets alone", || async {
        signal("STOP").await;
        let subject = "$JS.API.DIRECT.GET.KV_tidemill_done.$KV.tidemill_done.k";
        let answer = timeout(Duration::from_millis(300), reader.client.request(subject, "".into())).await;
        signal("CONT").await;
        answer.ok()?.ok()
    })
    .await;
    // More than what is on its way to a server that does not read.
    cluster.signal(&behind, "STOP").await;
    let others = (0..2_000).map(|number| (format!("$KV.tidemill_done.{number}"), "x".repeat(10_000)));
    nodes::publish(&writer.context, &others.collect::<Vec<_>>(), SIDE_BY_SIDE).await;
    let revision = write(revision).await;
    signal("STOP").await;
    cluster.signal(&behind, "CONT").await;
    // It is asked while it cannot know better; which server answers is for the servers to choose.
    let read = || eventually("the marker is read", || async { markers::read(&reader, "k").await.ok() });
    let found = join_all((0..16).map(|_| read()));
    let (found, ()) = tokio::join!(found, async {
        sleep(Duration::from_secs(1)).await;
        signal("CONT").await;
    });
    let found: Vec<_> = found.iter().map(|found| found.revision).collect();
    assert_eq!(found, [revision; 16]);
}

async fn connect(urls: Vec<String>) -> Nats {
    let target = Target { urls, auth: Auth::None, tls: None, base: std::path::PathBuf::new() };
    let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
    Nats::new(client, link)
}

/// A connection to one server, with our streams.
async fn prepared(url: String, manifest: &Manifest) -> Nats {
    let mut nats = connect(vec![url]).await;
    streams::prepare(&mut nats, manifest).await.expect("our streams");
    nats
}
