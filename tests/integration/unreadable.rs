//! Messages that the client library cannot read: each ends as one dead letter, and nobody else notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv;
use data_encoding::HEXLOWER;
use futures::StreamExt;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::keyvalue::Buckets;
use tidemill::broker::nats::{Nats, quarantine};
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tidemill_policy::outcome::Outcome;
use tokio::time::timeout;

use crate::raw::{Raw, messages};
use crate::support::{DEADLINE, Running, Stored, World, completed, eventually, output};

const DEAD_LETTERS: &str = "TIDEMILL_DEADLETTER";

/// A handler of what is stored here, and one that has nothing to do with it.
const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }

[handler.other]
subject = "other.>"
stream = "OTHER"
concurrency = 2
"#;

/// A subject, a block of headers, and something of what is wrong with them.
type Row = (&'static [u8], Option<&'static [u8]>, &'static str);

/// Some of what the client cannot read.
const UNREADABLE: &[Row] = &[
    (b"\xff\xfe", None, "subject is not valid UTF-8"),
    ("東京\u{3000}本社".as_bytes(), Some(b"NATS/1.0\r\nA: b\r\n\r\n"), "white space"),
    ("東京\u{3000}".as_bytes(), Some(b"NATS/1.0\r\nA: b\r\n\r\n"), "white space"),
    (b"x", Some(b"NATS/1.0\r\n x\r\n\r\n"), "name: value"),
    (b"x", Some(b"NATS/1.0\r\nA: \xe9\r\n\r\n"), "headers are not valid UTF-8"),
    (b"x", Some(b"NATS/1.0\r\nno colon\r\n\r\n"), "name: value"),
    (b"x", Some(b"NATS/1.0\r\nA: b\rc\r\n\r\n"), "carriage return"),
];

/// What only a server before 2.12 delivers as it was stored.
const STATUS: &[&str] = &["NATS/1.0 abc\r\n\r\n", "NATS/1.0 503\r\n\r\n", "NATS/1.0 100\r\n\r\n"];

/// A server that notes each connection in its log.
async fn world() -> World {
    let world = World::start_with("debug: true\n").await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    world.stream("OTHER", &["other.>"]).await;
    world
}

/// How many connections there were so far.
fn connections(world: &World) -> usize {
    let log = std::fs::read_to_string(world.server.folder.join("nats-server.log")).expect("a log");
    log.matches("Client connection created").count()
}

/// What is published of an event: which it is, and on which subject it came.
fn seen_as(event: &Event) -> Outcome {
    if event.subject.starts_with("other.") {
        return completed(&[]);
    }
    let subject = HEXLOWER.encode(event.subject.as_bytes());
    completed(&[output("out.a", &format!("{} {subject}", String::from_utf8_lossy(&event.payload)))])
}

fn failures(letter: &Stored) -> Vec<AttemptError> {
    serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history")
}

/// Puts something between the events of the other handler: one is in hand, and stays so.
async fn hold_other(world: &World, running: &Running) {
    running.close_gate().await;
    world.publish("other.slow", &[], "slow").await;
    running.wait_for_calls(1).await;
}

#[tokio::test]
async fn each_is_one_dead_letter_and_no_other_handler_notices() {
    let world = world().await;
    let running = world.run(MANIFEST, seen_as).ready().await;
    hold_other(&world, &running).await;
    let mut raw = Raw::connect(&world.server.url).await;
    let before = connections(&world);
    let mut expected = BTreeMap::new();
    for round in 0..5 {
        for (nth, (token, headers, why)) in UNREADABLE.iter().enumerate() {
            let payload = format!("{round}-{nth}");
            raw.publish(&[b"in.", *token].concat(), *headers, payload.as_bytes()).await;
            expected.insert(payload.into_bytes(), *why);
        }
    }
    raw.flush().await;
    let letters = world.wait_for(DEAD_LETTERS, expected.len() as u64).await;
    for letter in &letters {
        let [failure] = &failures(letter)[..] else { panic!("one failure: {letter:?}") };
        assert_eq!(failure.kind, Kind::Undecodable);
        let why = expected.remove(&letter.payload).expect("each is dead-lettered once");
        assert!(failure.message.contains(why), "{why}: {failure:?}");
    }
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(connections(&world), before, "nobody has lost a connection");
    running.open_gate();
    world.wait_until_settled("OTHER", "tidemill-other").await;
    let calls = running.seen();
    assert_eq!(calls.len(), 1, "what was in hand was neither cut nor begun again: {calls:?}");
    assert!(running.status.is_ready());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_stored_status_is_not_taken_for_an_answer_of_the_server() {
    let world = world().await;
    let running = world.run(MANIFEST, seen_as).ready().await;
    let mut raw = Raw::connect(&world.server.url).await;
    for (nth, status) in STATUS.iter().enumerate() {
        raw.publish(b"in.status", Some(status.as_bytes()), format!("{nth}").as_bytes()).await;
    }
    raw.flush().await;
    let ended = eventually("each has ended", || async {
        let mut ended: Vec<_> = running.seen().iter().map(|event| event.payload.to_vec()).collect();
        if world.context.get_stream(DEAD_LETTERS).await.is_ok() {
            ended.extend(world.messages(DEAD_LETTERS).await.into_iter().map(|letter| letter.payload));
        }
        (ended.len() >= STATUS.len()).then_some(ended)
    })
    .await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let mut ended: Vec<_> = ended.into_iter().map(|payload| String::from_utf8(payload).expect("a number")).collect();
    ended.sort();
    assert_eq!(ended, ["0", "1", "2"]);
    running.drain().await.expect("drains");
}

/// Whatever is stored, by anyone: it ends once, as what it is, and disturbs nobody.
#[tokio::test]
async fn whatever_is_stored_is_handled_or_dead_lettered_once() {
    let world = world().await;
    let running = world.run(MANIFEST, seen_as).ready().await;
    hold_other(&world, &running).await;
    running.open_gate();
    let mut raw = Raw::connect(&world.server.url).await;
    let before = connections(&world);
    let sent = messages(400, 1);
    for (nth, (token, headers)) in sent.iter().enumerate() {
        raw.publish(&[b"in.", &token[..]].concat(), headers.as_deref(), format!("{nth}").as_bytes()).await;
        world.publish("other.x", &[], "x").await;
    }
    raw.publish(b"in.end", None, b"end").await;
    raw.flush().await;
    eventually("the last one is handled", || async {
        running.seen().iter().any(|event| event.payload == "end").then_some(())
    })
    .await;
    world.wait_until_settled("IN", "tidemill-h").await;
    world.wait_until_settled("OTHER", "tidemill-other").await;
    assert_eq!(connections(&world), before, "nobody has lost a connection");
    let mut outcomes: BTreeMap<usize, Vec<Option<Vec<u8>>>> = BTreeMap::new();
    for letter in world.messages(DEAD_LETTERS).await {
        assert_eq!(failures(&letter)[0].kind, Kind::Undecodable, "{letter:?}");
        let nth = String::from_utf8(letter.payload).expect("a number").parse().expect("a number");
        outcomes.entry(nth).or_default().push(None);
    }
    for stored in world.messages("OUT").await {
        let text = String::from_utf8(stored.payload).expect("text");
        let (nth, subject) = text.split_once(' ').expect("two words");
        let Ok(nth) = nth.parse() else { continue };
        outcomes.entry(nth).or_default().push(Some(HEXLOWER.decode(subject.as_bytes()).expect("bytes")));
    }
    let stored = world.context.get_stream("IN").await.expect("the stream").cached_info().state.messages;
    assert_eq!(outcomes.len() as u64 + 1, stored, "each that is stored has ended");
    for (nth, ends) in &outcomes {
        let (token, block) = &sent[*nth];
        let subject = [b"in.", &token[..]].concat();
        let [end] = &ends[..] else { panic!("{nth} has ended {} times", ends.len()) };
        match (end, quarantine::fault(&subject, block.as_deref().unwrap_or_default())) {
            (Some(handled), None) => assert_eq!(*handled, subject, "handled as what it is"),
            (None, Some(_)) => {}
            // Servers since 2.12 take the status away.
            (Some(handled), Some(_)) => {
                assert!(block.as_ref().is_some_and(|block| block.starts_with(b"NATS/1.0")), "{:?}", sent[*nth]);
                assert_eq!(*handled, subject);
            }
            // Clients could read it, and it could not be sent on.
            (None, None) if subject.iter().any(u8::is_ascii_control) => {}
            (None, None) => panic!("dead-lettered, and nothing is wrong with it: {:?}", sent[*nth]),
        }
    }
    let others = running.seen().iter().filter(|event| event.subject.starts_with("other.")).count();
    assert_eq!(others, sent.len() + 1, "each is handled once");
    running.drain().await.expect("drains");
}

/// What the client makes of a message: its subject and headers, unless it takes it for something else or stumbles.
async fn read_by_the_client(
    world: &World,
    raw: &mut Raw,
    subject: &[u8],
    headers: Option<&[u8]>,
) -> Option<Vec<(String, String)>> {
    let client = async_nats::connect(&world.server.url).await.expect("a connection");
    let mut heard = client.subscribe("p.>").await.expect("subscribed");
    // It listens once it has heard something.
    while timeout(Duration::from_millis(20), heard.next()).await.is_err() {
        raw.publish(b"p.begin", None, b"begin").await;
        raw.flush().await;
    }
    raw.publish(subject, headers, b"probe").await;
    loop {
        raw.publish(b"p.end", None, b"end").await;
        raw.flush().await;
        match timeout(Duration::from_millis(200), heard.next()).await {
            Ok(Some(message)) if message.payload == "probe" => {
                let is_itself = message.subject.as_bytes() == subject && message.status.is_none();
                let map = message.headers.unwrap_or_default();
                let mut list: Vec<_> = map
                    .iter()
                    .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.to_string())))
                    .collect();
                list.sort_by(|a, b| a.0.cmp(&b.0));
                return is_itself.then_some(list);
            }
            Ok(Some(message)) if message.payload == "begin" => {}
            // The client has ended, or goes on behind it.
            Ok(_) => return None,
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn the_rules_are_those_of_the_client() {
    let world = World::start().await;
    let target = Target { urls: vec![world.server.url.clone()], ..Target::default() };
    let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
    let nats = Nats::new(client, link);
    let mut delivered = nats.wire().subscribe("p.>".to_owned()).await;
    let mut raw = Raw::connect(&world.server.url).await;
    let listen = async {
        loop {
            raw.publish(b"p.end", None, b"end").await;
            raw.flush().await;
            if timeout(Duration::from_millis(50), delivered.next()).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, listen).await.expect("we listen");
    let mut counts = (0, 0);
    for (token, headers) in messages(250, 2) {
        let subject = [b"p.", &token[..]].concat();
        let read = read_by_the_client(&world, &mut raw, &subject, headers.as_deref()).await;
        // What counts is what the server delivers.
        let arrived = loop {
            let message = delivered.next().await.expect("the connection takes any bytes");
            if message.payload == "probe" {
                break message;
            }
        };
        assert_eq!(arrived.subject, subject, "it comes as it was sent");
        let fault = quarantine::fault(&arrived.subject, &arrived.headers);
        assert_eq!(fault.is_none(), read.is_some(), "{subject:?} {:?}: {fault:?}", arrived.headers);
        if let Some(read) = read {
            let mut list = quarantine::read(&arrived.headers).expect("readable").headers;
            list.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(list, read, "{:?}", arrived.headers);
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    }
    assert!(counts.0 > 30 && counts.1 > 30, "both kinds are tried: {counts:?}");
}

#[tokio::test]
async fn what_is_stored_among_retries_is_the_same() {
    let world = world().await;
    let running = world.run(MANIFEST, seen_as).ready().await;
    let mut raw = Raw::connect(&world.server.url).await;
    for headers in
        [&b"NATS/1.0\r\nTidemill-Attempt: \xff\r\n\r\n"[..], b"NATS/1.0\r\nA: b\rc\r\n\r\n", b"NATS/1.0\r\n x\r\n\r\n"]
    {
        raw.publish(b"tidemill.retry.due.h", Some(headers), b"retry").await;
    }
    raw.flush().await;
    let letters = world.wait_for(DEAD_LETTERS, 3).await;
    assert!(letters.iter().all(|letter| letter.payload == b"retry"), "{letters:?}");
    assert!(letters.iter().all(|letter| failures(letter)[0].kind == Kind::Undecodable), "{letters:?}");
    world.wait_until_settled("TIDEMILL_RETRY", "tidemill-h-retry").await;
    assert_eq!(world.messages(DEAD_LETTERS).await.len(), 3);
    world.publish("in.good", &[], "good").await;
    running.wait_for_calls(1).await;
    running.drain().await.expect("drains");
}

/// Where the floor of what is acknowledged is held far behind, and most of what is stored is nobody's.
#[tokio::test]
async fn it_is_found_wherever_it_is() {
    let world = world().await;
    let running = world.run(&MANIFEST.replace("in.>", "in.mine.>"), seen_as).ready().await;
    running.close_gate().await;
    world.publish("in.mine.slow", &[], "slow").await;
    running.wait_for_calls(1).await;
    let mut raw = Raw::connect(&world.server.url).await;
    for _ in 0..1_500 {
        raw.publish(b"in.theirs.x", None, b"x").await;
    }
    raw.publish(b"in.mine.bad", Some(b"NATS/1.0\r\nA: \xe9\r\n\r\n"), b"bad").await;
    raw.flush().await;
    let letters = world.wait_for(DEAD_LETTERS, 1).await;
    assert_eq!(letters[0].payload, b"bad");
    running.open_gate();
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(running.seen().len(), 1);
    running.drain().await.expect("drains");
}

/// Events of each key, with what cannot be read between them, in each form of order.
#[tokio::test]
async fn handlers_with_an_order_go_on() {
    for form in ["form = 'queues'", "partitions = 4"] {
        let world = world().await;
        let manifest = format!(
            "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.publish = ['out.>']\n\
             order = {{ by = 'key', key = 'subject:2', {form} }}\n"
        );
        let running = world.run(&manifest, seen_as).ready().await;
        let mut raw = Raw::connect(&world.server.url).await;
        let mut unreadable = 0;
        for number in 0..21 {
            let (token, headers, _) = &UNREADABLE[number % UNREADABLE.len()];
            let token = if *token == b"x" { format!("k{}", number % 3).into_bytes() } else { token.to_vec() };
            raw.publish(&[b"in.", &token[..]].concat(), *headers, format!("bad {number}").as_bytes()).await;
            unreadable += 1;
            for key in 0..3 {
                raw.publish(format!("in.k{key}").as_bytes(), None, format!("{number}").as_bytes()).await;
            }
        }
        raw.flush().await;
        let calls = running.wait_for_calls(63).await;
        let letters = world.wait_for(DEAD_LETTERS, unreadable).await;
        assert!(letters.iter().all(|letter| failures(letter)[0].kind == Kind::Undecodable), "{form}: {letters:?}");
        for key in 0..3 {
            let of_key = calls.iter().filter(|event| event.subject == format!("in.k{key}"));
            let numbers: Vec<usize> =
                of_key.map(|event| String::from_utf8_lossy(&event.payload).parse().expect("a number")).collect();
            assert_eq!(numbers, (0..21).collect::<Vec<_>>(), "{form}");
        }
        running.drain().await.expect("drains");
        assert_eq!(world.messages(DEAD_LETTERS).await.len() as u64, unreadable, "{form}");
    }
}

/// A value that anybody may have written: the client library would stumble over it when it is read.
#[tokio::test]
async fn values_in_buckets_are_read_whatever_their_headers_are() {
    let world = world().await;
    let config = kv::Config { bucket: "shared".into(), history: 1, ..kv::Config::default() };
    let store = world.context.create_key_value(config).await.expect("a bucket");
    store.put("good", "value".into()).await.expect("put");
    store.put("gone", "value".into()).await.expect("put");
    store.delete("gone").await.expect("deleted");
    let (nats, _) = world.consumer(Duration::from_secs(30)).await;
    let buckets = Buckets::default();
    buckets.connect_to(&nats);
    let mut raw = Raw::connect(&world.server.url).await;
    for (nth, headers) in
        [&b"NATS/1.0\r\nA: \xe9\r\n\r\n"[..], b"NATS/1.0\r\nA: b\rc\r\n\r\n", b"NATS/1.0\r\n x\r\n\r\n"]
            .iter()
            .enumerate()
    {
        raw.publish(format!("$KV.shared.bad{nth}").as_bytes(), Some(headers), b"bad").await;
    }
    raw.publish(b"$KV.shared.\xff", None, b"bad").await;
    raw.flush().await;
    let before = connections(&world);
    for key in ["bad0", "bad1", "bad2"] {
        let read =
            eventually("it is stored", || async { buckets.get("shared", key).await.expect("an answer").value }).await;
        assert_eq!(read, "bad");
    }
    assert_eq!(buckets.get("shared", "good").await.expect("an answer").value.as_deref(), Some(&b"value"[..]));
    for key in ["gone", "never"] {
        assert_eq!(buckets.get("shared", key).await.expect("an answer").value, None, "{key}");
    }
    assert_eq!(buckets.keys("shared").await.expect("an answer"), ["bad0", "bad1", "bad2", "good"]);
    assert_eq!(buckets.keys("shared").await.expect("an answer").len(), 4, "the connection is still there");
    assert_eq!(connections(&world), before, "nobody has lost a connection");
}

/// A marker that somebody has written by hand.
#[tokio::test]
async fn markers_are_looked_up_whatever_their_headers_are() {
    let world = world().await;
    let manifest = MANIFEST.replace("stream = \"IN\"", "stream = \"IN\"\ndedup = { key = 'id', window = '1h' }");
    let running = world.run(&manifest, seen_as).ready().await;
    let bucket = world.context.get_stream("KV_tidemill_done").await.expect("the bucket");
    world.publish("in.a", &[(headers::MSG_ID, "e1")], "1").await;
    let key = eventually("there is a marker", || async {
        let mut subjects = bucket.info_with_subjects("$KV.tidemill_done.>").await.ok()?;
        Some(subjects.next().await?.ok()?.0)
    })
    .await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let mut raw = Raw::connect(&world.server.url).await;
    let before = connections(&world);
    for headers in [&b"NATS/1.0\r\nA: \xe9\r\n\r\n"[..], b"NATS/1.0\r\nA: b\rc\r\n\r\n"] {
        raw.publish(key.as_bytes(), Some(headers), b"{").await;
        raw.flush().await;
        world.publish("in.a", &[(headers::MSG_ID, "e1")], "again").await;
        world.publish("in.b", &[], "other").await;
        world.wait_until_settled("IN", "tidemill-h").await;
    }
    assert_eq!(connections(&world), before, "nobody has lost a connection");
    running.drain().await.expect("drains");
}

/// Anybody may ask for the service, and the client library ends at what this one asks with.
#[tokio::test]
async fn a_request_to_the_service_cuts_nothing_and_the_service_comes_back() {
    let world = world().await;
    let running = world.run(MANIFEST, seen_as).ready().await;
    hold_other(&world, &running).await;
    let found = || async {
        let answer = world.client.request("tidemill.service.status", "".into());
        timeout(Duration::from_secs(1), answer).await.ok()?.ok()
    };
    eventually("it is found", found).await;
    let mut raw = Raw::connect(&world.server.url).await;
    for headers in [&b"NATS/1.0\r\nA: \xe9\r\n\r\n"[..], b"NATS/1.0\r\nA: b\rc\r\n\r\n"] {
        let before = connections(&world);
        raw.publish(b"$SRV.PING", Some(headers), b"").await;
        raw.flush().await;
        eventually("the connection of the service is made anew", || async {
            (connections(&world) > before).then_some(())
        })
        .await;
        eventually("it is found again", found).await;
    }
    running.open_gate();
    world.wait_until_settled("OTHER", "tidemill-other").await;
    assert_eq!(running.seen().len(), 1, "what was in hand was neither cut nor begun again");
    running.drain().await.expect("drains");
}
