//! What operators do with waiting and dead events, on a real server: `tidemill status`, `retry` and `dlq`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::stream::Config;
use serde_json::Value;
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::outcome::Outcome;

use crate::cli::{Desk, Run};
use crate::support::{Running, World, completed, eventually, reject, retry};

/// Fails for a long time: whatever is run sooner was brought forward.
const PATIENT: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
retry = { max_attempts = 3, initial = "1h", max = "2h", jitter = 0, in_memory = "0s" }
"#;

/// A server, an instance, and a desk with the same manifest.
struct Office {
    world: World,
    desk: Desk,
    running: Running,
}

impl Office {
    async fn open(manifest: &str, script: impl Fn(&Event) -> Outcome + Send + Sync + 'static) -> Office {
        let world = World::start().await;
        world.stream("IN", &["in.>"]).await;
        let running = world.run(manifest, script).ready().await;
        let desk = Desk::with(&format!("{manifest}\n[nats]\nurl = \"{}\"\n", world.server.url));
        Office { world, desk, running }
    }

    fn run(&self, command: &str) -> Run {
        self.desk.run(&command.split_whitespace().collect::<Vec<_>>())
    }

    fn json(&self, command: &str) -> Value {
        self.run(&format!("{command} --output json")).succeeds().json()
    }

    async fn publish(&self, id: &str) {
        self.world.publish("in.x", &[(headers::MSG_ID, id), ("X-Own", "kept")], format!("payload of {id}")).await;
    }

    async fn wait_for_letters(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} dead letters"), || async {
            let listing = self.json("dlq list");
            let list = listing["dead_letters"].as_array().cloned().unwrap_or_default();
            (list.len() == count).then_some(list)
        })
        .await
    }

    async fn wait_for_retries(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} retries"), || async {
            let listing = self.json("retry list");
            let list = listing["retries"].as_array().cloned().unwrap_or_default();
            (list.len() == count).then_some(list)
        })
        .await
    }

    /// Waits until the retry stream holds so many messages, in flight ones included.
    async fn wait_for_rest(&self, count: u64) {
        eventually(&format!("{count} messages in the retry stream"), || async {
            let stream = self.world.context.get_stream("TIDEMILL_RETRY").await.ok()?;
            (stream.cached_info().state.messages == count).then_some(())
        })
        .await;
    }

    /// Waits until nothing is left to do, where no retry waits.
    async fn wait_until_quiet(&self) {
        self.world.wait_until_settled("IN", "tidemill-h").await;
        self.world.wait_until_settled("TIDEMILL_RETRY", "tidemill-h-retry").await;
        self.wait_for_rest(0).await;
    }
}

fn failing_first(event: &Event) -> Outcome {
    if event.attempt.is_first() { retry("first line\nsecond line") } else { completed(&[]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_retry_is_listed_and_run_once_when_it_is_brought_forward() {
    let office = Office::open(PATIENT, failing_first).await;
    office.publish("e1").await;
    office.publish("e2").await;
    let listed = office.wait_for_retries(2).await;
    assert_eq!((&listed[0]["handler"], &listed[0]["attempt"]), (&"h".into(), &2.into()));
    assert_eq!(listed[0]["last_error"]["kind"], "retry");
    let shown = office.run("retry list h").succeeds().stdout.clone();
    assert!(shown.contains("in 59m") || shown.contains("in 60m"), "{shown}");
    assert!(shown.contains("retry: first line\n"), "{shown}");
    let status = office.json("status");
    assert_eq!((&status[0]["retries"]["waiting"], &status[0]["retries"]["due"]), (&2.into(), &0.into()), "{status}");
    assert_eq!(status[0]["retries"]["earliest"], listed[0]["due"]);

    // Both at the same time: one of them brings it forward.
    let (one, other) = std::thread::scope(|scope| {
        let now = || office.run("retry now h e1");
        let (one, other) = (scope.spawn(now), scope.spawn(now));
        (one.join().expect("no panic"), other.join().expect("no panic"))
    });
    let won = |run: &Run| usize::from(run.exit == 0 && run.stdout == "e1: attempt 2 is due now\n");
    assert!(won(&one) + won(&other) >= 1, "{one:?} {other:?}");
    for run in [one, other] {
        assert!(run.exit == 0 || run.stderr.contains("no retry of \"e1\" waits"), "{run:?}");
    }
    let calls = office.running.wait_for_calls(3).await;
    assert_eq!((calls[2].id.as_str(), calls[2].attempt.get()), ("e1", 2));
    assert!(calls[2].headers.contains(&("X-Own".into(), "kept".into())));
    office.wait_for_rest(1).await;
    assert_eq!(office.wait_for_retries(1).await[0]["id"], "e2");
    office.run("retry now h e1").fails(1, &["no retry of \"e1\" waits for handler h", "tidemill retry list h"]);

    let all = office.json("retry now h --all");
    assert_eq!((&all[0]["id"], &all[0]["result"]), (&"e2".into(), &"now".into()), "{all}");
    office.running.wait_for_calls(4).await;
    office.wait_until_quiet().await;
    assert_eq!(office.running.seen().len(), 4, "each was run once more");
    assert_eq!(office.run("retry list").succeeds().stdout, "no retries wait\n");
    assert_eq!(office.run("retry now h --all").succeeds().stdout, "no retries wait\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_brought_forward_keeps_its_history() {
    let office = Office::open(PATIENT, |event| retry(&format!("failure {}", event.attempt))).await;
    office.publish("e1").await;
    for attempt in 2..=3 {
        eventually(&format!("attempt {attempt} waits"), || async {
            let listing = office.json("retry list h");
            let waits = listing["retries"][0]["attempt"] == attempt && listing["total"] == 1;
            waits.then_some(())
        })
        .await;
        office.run("retry now h e1").succeeds();
        office.running.wait_for_calls(attempt).await;
    }
    let letter = office.wait_for_letters(1).await.remove(0);
    office.wait_until_quiet().await;
    assert_eq!((&letter["attempts"], &letter["reason"]), (&3.into(), &"retry".into()));
    let shown = office.json("dlq show e1");
    let messages: Vec<_> = (0..3).map(|index| shown["errors"][index]["message"].as_str()).collect();
    assert_eq!(messages, [Some("failure 1"), Some("failure 2"), Some("failure 3")]);
    let seen: Vec<_> = office.running.seen().iter().map(|event| event.attempt.get()).collect();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_retry_is_gone_and_others_stay() {
    let office = Office::open(PATIENT, failing_first).await;
    office.publish("e1").await;
    office.publish("e2").await;
    office.wait_for_retries(2).await;
    office.run("retry drop h --all").fails(2, &["for good", "--yes"]);
    office.run("retry drop h nothing e1").fails(1, &["no retry of \"nothing\" waits", "nothing was done"]);
    office.wait_for_rest(2).await;
    let shown = office.json("retry drop h e1");
    assert_eq!((&shown[0]["id"], &shown[0]["result"]), (&"e1".into(), &"dropped".into()));
    assert_eq!(office.wait_for_retries(1).await[0]["id"], "e2");
    office.run("retry now h e1").fails(1, &["no retry of \"e1\" waits"]);
    office.run("retry now h e2").succeeds();
    let calls = office.running.wait_for_calls(3).await;
    assert_eq!(calls[2].id, "e2");
    // Nothing is left in the stream that could fire.
    office.wait_until_quiet().await;
    office.publish("e3").await;
    office.wait_for_retries(1).await;
    assert_eq!(office.run("retry drop h --all --yes").succeeds().stdout, "e3: attempt 2 was dropped\n");
    office.wait_until_quiet().await;
    assert_eq!(office.running.seen().len(), 4);
}

const STRICT: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_dead_letter_is_handled_and_gone() {
    let fixed = Arc::new(AtomicBool::new(false));
    let script = {
        let fixed = fixed.clone();
        move |_: &Event| if fixed.load(Ordering::SeqCst) { completed(&[]) } else { reject("bad\nworse") }
    };
    let office = Office::open(STRICT, script).await;
    for id in ["e1", "e2", "e3"] {
        office.publish(id).await;
    }
    let letters = office.wait_for_letters(3).await;
    let mut ids: Vec<_> = letters.iter().map(|letter| letter["id"].as_str().expect("an id")).collect();
    let sequences: Vec<_> = letters.iter().map(|letter| letter["sequence"].as_u64().expect("a sequence")).collect();
    assert_eq!(sequences, [3, 2, 1], "the newest first");
    ids.sort_unstable();
    assert_eq!(ids, ["e1", "e2", "e3"]);
    let shown = office.run("dlq list h --limit 2").succeeds().stdout.clone();
    assert!(shown.contains("reject: bad\n") && shown.contains("the newest 2 of 3"), "{shown}");
    assert_eq!(office.json("status")[0]["dead_letters"]["count"], 3);
    let whole = office.json("dlq show e1");
    assert_eq!((&whole["payload"], &whole["origin"]["subject"]), (&"payload of e1".into(), &"in.x".into()));
    assert_eq!(whole["headers"].to_string(), r#"[["X-Own","kept"]]"#);
    let whole = office.run("dlq show e1").succeeds().stdout.clone();
    for line in ["payload      payload of e1\n", "X-Own: kept\n", "attempt 1 at ", ": reject: bad\nworse\n"] {
        assert!(whole.contains(line), "{line:?} is not in:\n{whole}");
    }

    // Not fixed yet: it comes back with the failure added to its history.
    office.run("dlq replay e1").succeeds();
    office.running.wait_for_calls(4).await;
    let letters = office.wait_for_letters(3).await;
    let again = letters.iter().find(|letter| letter["id"] == "e1").expect("it came back");
    assert_eq!((&again["attempts"], &again["sequence"]), (&1.into(), &4.into()));
    assert_eq!(office.json("dlq show 4")["errors"].as_array().map(Vec::len), Some(2));

    fixed.store(true, Ordering::SeqCst);
    let replayed = office.json("dlq replay 4 --keep");
    assert_eq!(replayed[0]["result"], "replayed_and_kept");
    office.running.wait_for_calls(5).await;
    assert_eq!(office.json("dlq replay 4")[0]["result"], "replayed_before");
    assert_eq!(office.wait_for_letters(2).await.len(), 2);
    office.run("dlq replay 4").fails(1, &["there is no dead letter 4", "id:4"]);
    let kept = letters.iter().find(|letter| letter["id"] == "e2").expect("it is kept")["sequence"].clone();
    office.run(&format!("dlq replay {kept} 4")).fails(1, &["there is no dead letter 4"]);
    assert_eq!(office.wait_for_letters(2).await.len(), 2, "nothing was replayed");

    let none = office.run("dlq replay --handler h --all --reason timeout").succeeds().stdout.clone();
    assert_eq!(none, "no such dead letters\n");
    office.run("dlq replay --handler h --all --reason reject").succeeds();
    let calls = office.running.wait_for_calls(7).await;
    office.wait_until_quiet().await;
    assert_eq!(office.running.seen().len(), 7, "each was run once");
    assert!(
        calls[3..]
            .iter()
            .all(|event| event.attempt.is_first() && event.headers.contains(&("X-Own".into(), "kept".into())))
    );
    assert_eq!(calls[5].payload, format!("payload of {}", calls[5].id).as_bytes());
    assert!(office.world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    assert_eq!(office.run("dlq list").succeeds().stdout, "no dead letters\n");
}

/// What a double click is: both read the dead letter before either has deleted it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_replayed_twice_is_run_once() {
    let office = Office::open(STRICT, |_| reject("no")).await;
    office.publish("e1").await;
    office.wait_for_letters(1).await;
    office.running.close_gate().await;
    assert_eq!(office.json("dlq replay 1 --keep")[0]["result"], "replayed_and_kept");
    assert_eq!(office.json("dlq replay 1")[0]["result"], "replayed_before");
    office.running.open_gate();
    office.wait_for_letters(1).await;
    office.wait_until_quiet().await;
    assert_eq!(office.running.seen().len(), 2);
}

/// The retry that a dead letter came from is there until its acknowledgement arrives, which may take as long as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn the_retry_that_ended_in_a_dead_letter_is_not_taken_for_its_replay() {
    let office = Office::open(PATIENT, |_| retry("no")).await;
    office.publish("e1").await;
    for _ in 1..3 {
        office.wait_for_retries(1).await;
        office.run("retry now h --all").succeeds();
    }
    let letters = office.wait_for_letters(1).await;
    office.wait_until_quiet().await;
    // As if the last retry were not acknowledged yet.
    let Office { world, desk, running } = office;
    running.drain().await.expect("drains");
    let letter = world.messages("TIDEMILL_DEADLETTER").await.remove(0);
    let subject = format!("tidemill.retry.due.h.{}", letter.headers["Tidemill-Identity"]);
    let names = ["Tidemill-Identity", "Tidemill-Event-Id", "Tidemill-Handler", "Tidemill-Errors"];
    let headers: Vec<_> = names.iter().map(|name| (*name, letter.headers[*name].as_str())).collect();
    world.publish(&subject, &headers, "payload").await;
    let sequence = letters[0]["sequence"].to_string();
    let result = desk.run(&["dlq", "replay", &sequence, "--output", "json"]).succeeds().json();
    assert_eq!(result[0]["result"], "replayed");
}

/// A kept letter is the event's last trace: what was sent on its way from it may have been dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_dead_letter_whose_replay_was_dropped_is_run_when_it_is_replayed_again() {
    let office = Office::open(STRICT, |_| reject("no")).await;
    office.publish("e1").await;
    office.wait_for_letters(1).await;
    office.world.wait_until_settled("IN", "tidemill-h").await;
    // Nobody takes it.
    let Office { world, desk, running } = office;
    running.drain().await.expect("drains");
    let run = |command: &str| desk.run(&command.split_whitespace().collect::<Vec<_>>());
    run("dlq replay 1 --keep").succeeds();
    run("retry drop h --all --yes").succeeds();
    let result = run("dlq replay 1 --output json").succeeds().json();
    assert_eq!(result[0]["result"], "replayed");
    let running = world.run(STRICT, |_| completed(&[])).ready().await;
    running.wait_for_calls(1).await;
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_dead_letter_is_run_again_after_its_replay_failed_and_not_after_it_succeeded() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let script = move |_: &Event| if mended.load(Ordering::SeqCst) { completed(&[]) } else { reject("no") };
    let office = Office::open(STRICT, script).await;
    office.publish("e1").await;
    office.wait_for_letters(1).await;
    for runs in 2..4 {
        assert_eq!(office.json("dlq replay 1 --keep")[0]["result"], "replayed_and_kept");
        office.wait_for_letters(2).await;
        office.wait_until_quiet().await;
        assert_eq!(office.running.seen().len(), runs);
        let newer = office.wait_for_letters(2).await[0]["sequence"].as_u64().expect("a number");
        office.run(&format!("dlq discard {newer}")).succeeds();
    }
    is_mended.store(true, Ordering::SeqCst);
    office.json("dlq replay 1 --keep");
    office.running.wait_for_calls(4).await;
    office.wait_until_quiet().await;
    assert_eq!(office.json("dlq replay 1")[0]["result"], "replayed_before");
    office.wait_until_quiet().await;
    assert_eq!((office.running.seen().len(), office.wait_for_letters(0).await.len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_dead_letter_does_not_keep_others_from_being_replayed() {
    let office = Office::open(STRICT, |_| reject("no")).await;
    office.publish("e1").await;
    office.wait_for_letters(1).await;
    let headers = [("Tidemill-Handler", "h"), ("Tidemill-Event-Id", "x")];
    office.world.publish("tidemill.deadletter.h", &headers, "damaged").await;
    office.publish("e2").await;
    office.wait_for_letters(3).await;
    office.run("dlq replay --handler h --all").fails(1, &["dead letter 2", "2 others were replayed"]);
    office.running.wait_for_calls(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_on_a_subject_of_the_users_own_is_found_in_its_stream() {
    let manifest = format!("{STRICT}dead_letter = {{ subject = \"failed.h\" }}\n");
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let failed = Config {
        name: "FAILED".into(),
        subjects: vec!["failed.>".into()],
        allow_message_ttl: true,
        ..Config::default()
    };
    world.context.create_stream(failed).await.expect("a stream");
    world.publish("failed.h", &[], "not one of ours").await;
    let running = world.run(&manifest, |_| reject("no")).ready().await;
    let desk = Desk::with(&format!("{manifest}\n[nats]\nurl = \"{}\"\n", world.server.url));
    let office = Office { world, desk, running };
    office.publish("e1").await;
    let letters = office.wait_for_letters(1).await;
    assert_eq!((&letters[0]["stream"], &letters[0]["sequence"]), (&"FAILED".into(), &2.into()));
    assert!(office.run("dlq list").succeeds().stdout.contains("STREAM"), "there are two streams");
    office.run("dlq discard 1").fails(1, &["there is no dead letter 1"]);
    assert_eq!(office.json("dlq show FAILED/2")["id"], "e1");
    office.run("dlq discard FAILED/2").succeeds();
    assert_eq!(office.world.messages("FAILED").await.len(), 1, "what is not ours stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn discarded_dead_letters_are_gone() {
    let office = Office::open(STRICT, |_| reject("no")).await;
    for id in ["e1", "e2", "e3"] {
        office.publish(id).await;
    }
    office.wait_for_letters(3).await;
    let shown = office.run("dlq discard 1 1").succeeds().stdout.clone();
    assert!(shown.starts_with("1 (h, e") && shown.ends_with(") was discarded\n"), "{shown}");
    office.run("dlq discard 1").fails(1, &["there is no dead letter 1"]);
    office.run("dlq discard --handler h --all").fails(2, &["for good", "--yes"]);
    office.run("dlq discard --handler h --all --reason timeout --yes").succeeds();
    assert_eq!(office.wait_for_letters(2).await.len(), 2);
    office.run("dlq discard --handler h --all --yes").succeeds();
    assert!(office.world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    office.wait_until_quiet().await;
    assert_eq!(office.running.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_dead_letter_is_shown_and_not_replayed() {
    let office = Office::open(STRICT, |_| completed(&[])).await;
    let subject = "tidemill.deadletter.h";
    office
        .world
        .publish(subject, &[(headers::HANDLER, "h"), (headers::EVENT_ID, "e1")], b"\xff\x1b[2J".as_slice())
        .await;
    office.world.publish(subject, &[], "nothing is known").await;
    office.world.publish("tidemill.deadletter.other", &[], "of a handler that is gone").await;
    office.wait_for_letters(3).await;
    assert!(office.run("dlq show 1").succeeds().stdout.contains("(base64) /xtbMko="));
    office.run("dlq replay 1").fails(1, &["dead letter 1", "Tidemill-Origin-Subject", "stays"]);
    office.run("dlq replay 2").fails(1, &["Tidemill-Event-Id"]);
    office.run("dlq replay 3").fails(2, &["no handler \"other\"", "nothing was replayed"]);
    assert_eq!(office.world.messages("TIDEMILL_DEADLETTER").await.len(), 3);
    assert!(office.running.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_many_dead_letters_are_found() {
    let office = Office::open(STRICT, |_| completed(&[])).await;
    for number in 1..=500_u32 {
        let id = number.to_string();
        let handler = if number == 3 { "rare" } else { "h" };
        let list = [(headers::HANDLER, handler), (headers::EVENT_ID, id.as_str())];
        office.world.publish("tidemill.deadletter.h", &list, "x").await;
    }
    let stream = office.world.context.get_stream("TIDEMILL_DEADLETTER").await.expect("the stream");
    for sequence in (100..=480).chain(490..=500) {
        stream.delete_message(sequence).await.expect("deleted");
    }
    let ids = |command: &str| -> Vec<String> {
        let listing = office.json(command);
        let letters = listing["dead_letters"].as_array().expect("a list");
        letters.iter().map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect()
    };
    let expected: Vec<_> = (481..=489).rev().chain((91..=99).rev()).take(12).map(|id: u32| id.to_string()).collect();
    assert_eq!(ids("dlq list --limit 12"), expected);
    assert_eq!(ids("dlq list h --limit 200").len(), 107);
    assert_eq!(office.json("dlq list")["total"], 108);
    assert_eq!(office.json("dlq show id:99")["sequence"], 99);
    let one = office.json("dlq discard id:98 id:99");
    assert_eq!(one.as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcast_handlers_have_no_retries_that_could_be_reached() {
    let office = Office::open(&format!("{STRICT}mode = \"broadcast\"\n"), |_| reject("no")).await;
    office.publish("e1").await;
    office.wait_for_letters(1).await;
    for command in ["retry now h e1", "retry drop h e1", "retry list h", "dlq replay 1", "dlq replay --handler h --all"]
    {
        office.run(command).fails(2, &["broadcast"]);
    }
    let status = office.json("status");
    assert_eq!((&status[0]["retries"], &status[0]["consumers"]), (&Value::Null, &1.into()), "{status}");
    assert!(office.run("status").succeeds().stdout.contains("in the instances"));
    office.run("dlq discard 1").succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_start_nothing_waits() {
    let world = World::start().await;
    let desk = Desk::with(&format!("{STRICT}[nats]\nurl = \"{}\"\n", world.server.url));
    let run = |command: &str| desk.run(&command.split_whitespace().collect::<Vec<_>>());
    let status = run("status").succeeds().stdout.clone();
    assert!(status.contains("no consumer on stream IN yet"), "{status}");
    assert_eq!(run("retry list").succeeds().stdout, "no retries wait\n");
    assert_eq!(run("dlq list").succeeds().stdout, "no dead letters\n");
    run("retry now h e1").fails(1, &["no retries of h wait"]);
    run("dlq show 1").fails(1, &["there is no dead letter 1"]);

    // Somebody has deleted the retry stream: what would be replayed stays.
    world.stream("TIDEMILL_DEADLETTER", &["tidemill.deadletter.>"]).await;
    world.publish("tidemill.deadletter.h", &[], "x").await;
    run("dlq replay 1").fails(1, &["stream TIDEMILL_RETRY does not exist yet", "tidemill run"]);
    assert_eq!(world.messages("TIDEMILL_DEADLETTER").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_allow_is_said() {
    let extra = "no_auth_user: all, authorization { users = [\
                 { user: all, password: all },\
                 { user: none, password: none, permissions: { publish: [\"$JS.API.INFO\"] } } ] }";
    let world = World::start_with(extra).await;
    let url = world.server.url.replace("nats://", "nats://none:none@");
    let desk = Desk::with(STRICT);
    let denied = ["denies requests on \"$JS.API.STREAM", "Permissions Violation", "ask for the permission"];
    for command in [&["status"] as &[&str], &["retry", "list"], &["dlq", "list"]] {
        desk.run(&[command, &["--nats-url", &url]].concat()).fails(1, &denied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_named() {
    let extra = "no_auth_user: with, accounts {\
                 WITH { jetstream: enabled, users: [{ user: with, password: p }] },\
                 WITHOUT { users: [{ user: without, password: p }] } }";
    let world = World::start_with(extra).await;
    let url = world.server.url.replace("nats://", "nats://without:p@");
    let desk = Desk::with(STRICT);
    for command in [&["status"] as &[&str], &["retry", "list"], &["dlq", "list"]] {
        desk.run(&[command, &["--nats-url", &url]].concat()).fails(1, &["JetStream is not enabled", "-js"]);
    }
}

#[test]
fn mistakes_are_told_with_their_remedy() {
    let desk = Desk::with(STRICT);
    let run = |command: &str| desk.run(&command.split_whitespace().collect::<Vec<_>>());
    for command in ["status", "retry list", "dlq list"] {
        run(command).fails(2, &["names no NATS server", "--nats-url"]);
        run(&format!("{command} --nats-url nats://127.0.0.1:1"))
            .fails(1, &["cannot connect to NATS", "is the server running"]);
    }
    for command in ["retry list g", "retry now g x", "retry drop g x", "dlq list g", "dlq replay --handler g --all"] {
        run(command).fails(2, &["no handler \"g\"", "did you mean \"h\"?"]);
    }
    run("retry now h").fails(2, &["ID"]);
    run("retry now h x --all").fails(2, &["--all"]);
    run("dlq replay").fails(2, &["SEQ|ID"]);
    run("dlq replay --all").fails(2, &["--handler"]);
    run("dlq replay 1 --reason trap").fails(2, &["--all"]);
    run("dlq replay --handler h --all --reason slow").fails(2, &["slow", "`timeout`"]);
    Desk::with("[nats]\nurl = \"nats://127.0.0.1:1\"\n").run(&["status"]).fails(2, &["has no handlers"]);
}
