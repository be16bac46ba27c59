//! Instances as a NATS service: who is found, what they tell, and when they are not found any more.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tidemill::broker::nats::Nats;
use tidemill::operate::instances::{self, Instance};
use tokio::time::timeout;

use crate::cli::Desk;
use crate::delivery::publish_raw;
use crate::support::{World, completed, eventually, output, retry};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.h"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { initial = "1ms", max_attempts = 2 }
[handler.ordered]
subject = "in.o"
stream = "IN"
order = { by = "key", key = "json:/key" }
"#;

async fn found(world: &World, prefix: &str) -> Vec<Instance> {
    let nats = Nats::new(world.client.clone(), std::sync::Arc::default());
    instances::find(&nats, prefix).await.expect("an answer")
}

/// The names of the services that answer, as any tool finds them.
async fn pings(world: &World) -> Vec<String> {
    let inbox = world.client.new_inbox();
    let mut answers = world.client.subscribe(inbox.clone()).await.expect("subscribed");
    world.client.publish_with_reply("$SRV.PING", inbox, "".into()).await.expect("sent");
    let mut names = Vec::new();
    while let Ok(Some(answer)) = timeout(Duration::from_secs(1), answers.next()).await {
        let Ok(answer) = serde_json::from_slice::<Value>(&answer.payload) else { break };
        names.push(format!("{} {}", answer["name"], answer["metadata"]["instance"]).replace('"', ""));
    }
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_is_found_with_what_it_counts_until_it_drains() {
    let world = World::in_and_out().await;
    let script = |event: &tidemill_policy::event::Event| match event.payload.as_ref() {
        b"bad" => retry("no"),
        _ => completed(&[output("out.a", "1")]),
    };
    let desk = Desk::with(&format!("{MANIFEST}[nats]\nurl = \"{}\"\n", world.server.url));
    let status = desk.run(&["status"]).succeeds().stdout.clone();
    assert!(status.contains("no instance runs"), "{status}");
    assert_eq!(desk.run(&["status", "--output", "json"]).json()[0]["instances"], serde_json::json!([]));

    let first = world.run(MANIFEST, script).ready().await;
    let second = world.run(MANIFEST, script).ready().await;
    for payload in ["good", "bad", "good"] {
        world.publish("in.h", &[], payload).await;
    }
    world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let mut names = vec![first.status.name.clone(), second.status.name.clone()];
    names.sort();
    // What an instance counts follows what it has settled.
    let all = eventually("all is counted", || async {
        let all = found(&world, "tidemill").await;
        let sum = |key: &str| all.iter().map(|one| one.handlers["h"][key].as_u64().expect("a count")).sum::<u64>();
        (all.len() == 2 && (sum("handled"), sum("retried"), sum("dead_lettered")) == (2, 1, 1)).then_some(all)
    })
    .await;
    assert_eq!(all.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), names);
    assert!(all.iter().all(|one| one.ready && one.version == env!("CARGO_PKG_VERSION")), "{all:?}");
    assert_eq!(pings(&world).await, names.iter().map(|name| format!("tidemill {name}")).collect::<Vec<_>>());
    let active = eventually("one is the active one", || async {
        let all = found(&world, "tidemill").await;
        let active = all.iter().filter(|one| one.handlers["ordered"]["active"] == true);
        let names: Vec<_> = active.map(|one| one.name.clone()).collect();
        (!names.is_empty()).then_some(names)
    })
    .await;
    assert_eq!(active.len(), 1);

    let ask = async |subject: &str| -> Value {
        let answer = world.client.request(subject.to_owned(), "".into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    let whole = ask("tidemill.service.status").await;
    assert!(names.contains(&whole["instance"].as_str().expect("a name").to_owned()), "{whole}");
    assert!(whole["handlers"]["h"]["handled"].is_u64(), "{whole}");
    assert_eq!(ask("tidemill.service.handler.h").await["component"], "digest");

    let rows = desk.run(&["status", "--output", "json"]).succeeds().json();
    let failed: u64 = (0..2).map(|index| rows[0]["instances"][index]["failed"].as_u64().expect("a count")).sum();
    assert_eq!(failed, 2, "{rows}");
    let text = desk.run(&["status"]).succeeds().stdout.clone();
    for part in [names[0].as_str(), &names[1], "ordered (active)", "ordered (stands by)"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let (active, other) = if active[0] == first.status.name { (first, second) } else { (second, first) };
    let name = other.status.name.clone();
    active.drain().await.expect("drains");
    assert_eq!(pings(&world).await, [format!("tidemill {name}")]);
    eventually("the other one is the active one", || async {
        let all = found(&world, "tidemill").await;
        (all.len() == 1 && all[0].handlers["ordered"]["active"] == true).then_some(())
    })
    .await;
    other.drain().await.expect("drains");
    assert!(found(&world, "tidemill").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_with_another_prefix_are_another_service() {
    let world = World::in_and_out().await;
    let running = world.run(&format!("{MANIFEST}[nats]\nprefix = \"mine\"\n"), |_| completed(&[])).ready().await;
    assert_eq!(pings(&world).await, [format!("tidemill-mine {}", running.status.name)]);
    assert_eq!(found(&world, "mine").await.len(), 1);
    assert!(found(&world, "tidemill").await.is_empty());
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_client_has_ended_is_found_again() {
    let world = World::in_and_out().await;
    let manifest = "[handler.h]\nsubject = \"in.>\"\nstream = \"IN\"\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    // The client library panics at it.
    publish_raw(&world, b"NATS/1.0\r\nX-Bad: a\rb\r\n\r\n").await;
    world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    eventually("it is found", || async { (found(&world, "tidemill").await.len() == 1).then_some(()) }).await;
    running.drain().await.expect("drains");
}

/// With and without the permission that lets us know beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_register_runs_all_the_same() {
    for publish in ["\">\"", "{ deny: \"$SYS.REQ.USER.INFO\" }"] {
        let extra = format!(
            "no_auth_user: all, authorization {{ users = [ {{ user: all, password: all }}, \
             {{ user: narrow, password: narrow, permissions: {{ subscribe: \"_INBOX.>\", publish: {publish} }} }} ] }}"
        );
        let world = World::start_with(&extra).await;
        world.stream("IN", &["in.>"]).await;
        world.stream("OUT", &["out.>"]).await;
        let url = world.server.url.replace("nats://", "nats://narrow:narrow@");
        let running = crate::support::run_at(&url, MANIFEST, |_| completed(&[output("out.a", "1")])).ready().await;
        world.publish("in.h", &[], "x").await;
        world.wait_for("OUT", 1).await;
        assert!(running.status.troubles.are_none(), "{:?}", running.status.troubles.now());
        assert!(found(&world, "tidemill").await.is_empty());
        // What is granted to operators is theirs to have: it is said that nobody could be asked.
        let desk = Desk::with(&format!("{MANIFEST}[nats]\nurl = \"{}\"\n", world.server.url));
        assert!(desk.run(&["status"]).succeeds().stdout.contains("none that can be found"));
        running.drain().await.expect("drains");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_may_not_ask_the_instances_sees_all_the_rest() {
    let extra = "no_auth_user: all, authorization { users = [ { user: all, password: all }, \
                 { user: narrow, password: narrow, permissions: { publish: { deny: \"$SRV.>\" } } } ] }";
    let world = World::start_with(extra).await;
    world.stream("IN", &["in.>"]).await;
    let url = world.server.url.replace("nats://", "nats://narrow:narrow@");
    let desk = Desk::with(MANIFEST);
    let text = desk.run(&["status", "--nats-url", &url]).succeeds().stdout.clone();
    assert!(
        text.contains("which instances run is not known: the server denies requests on \"$SRV.STATS.tidemill\""),
        "{text}"
    );
    let rows = desk.run(&["status", "--output", "json", "--nats-url", &url]).succeeds().json();
    assert_eq!((&rows[0]["handler"], &rows[0]["instances"]), (&"h".into(), &Value::Null));
}
