//! The manifest against the server's settings: each contradiction keeps an instance from starting, names both
//! sides, and nothing is consumed.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, ConsumerLimits, RetentionPolicy};
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::preflight::{self, Findings};
use tidemill::instance::StartError;
use tidemill_policy::manifest::{Auth, SecretRef};

use crate::support::{World, completed, output, parse, retry};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
"#;

/// What preflight finds, with a user's password read from a file.
async fn findings(world: &World, manifest: &str, user: Option<(&str, &Path)>) -> Findings {
    let auth = user.map_or(Auth::None, |(user, password)| Auth::User {
        user: user.to_owned(),
        password: SecretRef::File(password.to_owned()),
    });
    let target = Target { urls: vec![world.server.url.clone()], auth, tls: None, base: std::path::PathBuf::new() };
    let (client, link) = connect::connect(&target, "test", std::sync::Arc::default()).await.expect("a connection");
    preflight::check(&Nats::new(client, link), &parse(manifest)).await.expect("an answer")
}

/// Checks that an instance does not start, and what it says.
async fn refused(world: &World, manifest: &str, expected: &[&str]) {
    let error = world.run(manifest, |_| completed(&[])).end().await.expect_err("refused");
    let StartError::Conflicts(conflicts) = error else { panic!("{error}") };
    assert_eq!(conflicts.0.len(), expected.len(), "{conflicts:#?}");
    for expected in expected {
        assert!(conflicts.0.iter().any(|one| one.contains(expected)), "{expected:?} is not in {conflicts:#?}");
    }
    if let Ok(stream) = world.context.get_stream("IN").await {
        assert_eq!(stream.cached_info().state.consumer_count, 0, "nothing is consumed");
    }
}

fn stream(name: &str, subject: &str) -> Config {
    Config { name: name.into(), subjects: vec![subject.into()], ..Config::default() }
}

/// A server with these streams.
async fn world(streams: Vec<Config>) -> World {
    let world = World::start().await;
    for config in streams {
        world.context.create_stream(config).await.expect("a stream");
    }
    world
}

#[tokio::test]
async fn what_is_in_order_starts_without_a_word() {
    let world = world(vec![stream("IN", "in.>"), stream("OUT", "out.>")]).await;
    assert_eq!(findings(&world, MANIFEST, None).await, Findings::default());
    let running = world.run(MANIFEST, |_| completed(&[])).ready().await;
    assert_eq!(findings(&world, MANIFEST, None).await, Findings::default(), "also with our own streams");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn duplicate_windows_must_cover_repeated_outputs() {
    let short = Config { duplicate_window: Duration::from_secs(31), ..stream("OUT", "out.>") };
    let world = world(vec![stream("IN", "in.>"), short]).await;
    let message = "handler.h: after ack_wait = 30s and limits.timeout = 2s an event may be handled again, but stream \
                   \"OUT\", which stores \"out.>\", recognises a repeated output for 31s only (duplicate_window); raise \
                   it: nats stream edit OUT --dupe-window 1m, or lower limits.timeout or ack_wait";
    refused(&world, MANIFEST, &[message]).await;

    // Two minutes are what a stream has unless it says otherwise.
    let usual = stream("OUT", "out.>");
    world.context.update_stream(Config { duplicate_window: Duration::from_mins(2), ..usual }).await.expect("updated");
    let patient = format!("{MANIFEST}retry = {{ initial = \"1m\", max = \"5m\", jitter = 0.0 }}\n");
    let late = "handler.h: with retry.max_attempts = 5 and retry.max = 5m an event may be handled again after 13m, but \
                stream \"OUT\", which stores \"out.>\", recognises a repeated output for 2m only (duplicate_window); \
                raise it: nats stream edit OUT --dupe-window 13m, or lower retry.max or retry.max_attempts";
    let found = findings(&world, &patient, None).await;
    assert_eq!((found.conflicts.len(), found.warnings), (0, vec![late.to_owned()]));
    let once = format!("{patient}dedup = {{ key = \"id\" }}\n");
    refused(&world, &once, &[&format!("{late}; dedup asks for effects once")]).await;
}

#[tokio::test]
async fn streams_must_keep_what_is_waited_for() {
    let world = world(vec![
        Config { max_age: Duration::from_secs(20), ..stream("IN", "in.>") },
        stream("OUT", "out.>"),
        Config { max_age: Duration::from_mins(30), max_messages: 100, ..stream("TIDEMILL_RETRY", "tidemill.retry.>") },
        Config { max_age: Duration::from_hours(24), ..stream("TIDEMILL_DEADLETTER", "tidemill.deadletter.>") },
        Config { retention: RetentionPolicy::WorkQueue, allow_message_ttl: true, ..stream("QUEUE", "failed.>") },
    ])
    .await;
    let expected = [
        "handler.h: ack_wait = 30s is longer than stream \"IN\" keeps a message (max_age = 20s)",
        "stream \"TIDEMILL_RETRY\" has retention = limits, but retries that are done must leave it",
        "handler.h: retry.max = 1m lets a retry wait for up to 1h (a handler may ask for 1h), but stream \
         \"TIDEMILL_RETRY\" keeps messages for 30m only (max_age)",
        "stream \"TIDEMILL_RETRY\" drops its oldest messages when there is no room (max_msgs = 100, discard = old)",
        "handler.h: dead_letter.max_age = 30d is longer than stream \"TIDEMILL_DEADLETTER\" keeps a message \
         (max_age = 1d); raise it: nats stream edit TIDEMILL_DEADLETTER --max-age 30d",
    ];
    refused(&world, MANIFEST, &expected).await;
    let elsewhere = format!("{MANIFEST}dead_letter = {{ subject = \"failed.h\" }}\n");
    let removed = "handler.h: dead_letter.subject = \"failed.h\" is stored by stream \"QUEUE\", which removes messages \
                   that somebody has read (retention = workqueue)";
    refused(&world, &elsewhere, &[expected[0], expected[1], expected[2], expected[3], removed]).await;
}

#[tokio::test]
async fn a_stream_that_would_refuse_dead_letters_is_named_before_there_are_any() {
    let world = world(vec![stream("IN", "in.>"), stream("OUT", "out.>"), stream("FAILED", "failed.>")]).await;
    if world.client.server_info().version.as_str() < "2.11" {
        return;
    }
    let manifest = format!("{MANIFEST}dead_letter = {{ subject = \"failed.h\" }}\n");
    let expected = "handler.h: dead_letter.max_age = 30d makes each dead letter expire, but stream \"FAILED\", which stores \
                    dead_letter.subject = \"failed.h\", refuses messages that do (allow_msg_ttl)";
    refused(&world, &manifest, &[expected]).await;
}

#[tokio::test]
async fn limits_on_consumers_are_kept_or_refused() {
    let limited = |max_ack_pending, threshold| Config {
        consumer_limits: Some(ConsumerLimits { max_ack_pending, inactive_threshold: threshold }),
        ..stream("IN", "in.>")
    };
    let world = world(vec![limited(10, Duration::from_mins(5)), stream("OUT", "out.>")]).await;
    let expected = [
        "handler.h: concurrency = 16 takes 32 messages in flight, but stream \"IN\" or its account allows a consumer 10 \
         (max_ack_pending); lower concurrency to 5 or raise that limit",
        "handler.h: durable = \"tidemill-h\" must outlast the time in which no instance runs, but stream \"IN\" removes \
         consumers that are idle for 5m (consumer_limits.inactive_threshold)",
    ];
    refused(&world, MANIFEST, &expected).await;
    world.context.update_stream(limited(10, Duration::ZERO)).await.expect("updated");
    // Over all instances it would be more than that, which is no loss.
    let running = world.run(&format!("{MANIFEST}concurrency = 5\n"), |_| completed(&[])).ready().await;
    let consumer =
        world.context.get_stream("IN").await.expect("stream").consumer_info("tidemill-h").await.expect("info");
    assert_eq!(consumer.config.max_ack_pending, 10);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_consumer_that_the_server_keeps_otherwise_is_put_right() {
    let world = world(vec![stream("IN", "in.>"), stream("OUT", "out.>")]).await;
    let present = pull::Config {
        durable_name: Some("tidemill-h".into()),
        backoff: vec![Duration::from_secs(1), Duration::from_secs(5)],
        ..pull::Config::default()
    };
    world.context.create_consumer_on_stream(present, "IN").await.expect("a consumer");
    let running = world.run(MANIFEST, |_| completed(&[])).ready().await;
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    let now = stream.consumer_info("tidemill-h").await.expect("the consumer").config;
    assert_eq!((now.backoff.len(), now.ack_wait), (0, Duration::from_secs(30)));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn streams_that_are_missing_are_reported_with_everything_else() {
    let world = world(vec![stream("IN", "in.>"), stream("OUT", "out.>")]).await;
    let other = "[handler.other]\nsubject = \"elsewhere\"\nallow = { publish = [\"nowhere\"] }\n";
    let manifest = format!("{MANIFEST}limits = {{ timeout = \"5m\" }}\n{other}");
    let expected =
        ["no stream stores subject \"elsewhere\"", "handler.h: after ack_wait = 7m 30s and limits.timeout = 5m"];
    refused(&world, &manifest, &expected).await;
    let found = findings(&world, &manifest, None).await;
    assert!(found.warnings[0].contains("no stream stores allow.publish = \"nowhere\""), "{found:?}");
}

/// The configuration of a narrow user in the README, and the manifest that it is for.
fn documented() -> (String, String) {
    let readme = include_str!("../../README.md");
    let block = |marker: &str| {
        let (_, rest) = readme.split_once(marker).expect("the marker");
        let (_, rest) = rest.split_once("```").expect("a block");
        let (_, rest) = rest.split_once('\n').expect("its first line");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    (block("<!-- narrow user: a test uses this as it is -->"), block("`tidemill.toml`:"))
}

/// A server with the documented user, its streams, and the file of the user's password.
async fn guarded(accounts: &str) -> (World, std::path::PathBuf) {
    let world = World::start_with(&format!("{accounts}\nno_auth_user: admin\n")).await;
    world.stream("ORDERS", &["order.placed"]).await;
    world.stream("PRICED", &["order.priced"]).await;
    let password = world.folder.path().join("password");
    std::fs::write(&password, "change-me-too\n").expect("written");
    (world, password)
}

#[tokio::test]
async fn the_documented_user_may_do_all_that_is_needed() {
    let (accounts, manifest) = documented();
    let (world, password) = guarded(&accounts).await;
    let manifest = manifest.replace("url = \"nats://127.0.0.1:4222\"", "").replace("create_stream = true", "");
    let found = findings(&world, &manifest, Some(("tidemill", &password))).await;
    assert_eq!(found, Findings::default());
    let user = format!("[nats]\nuser = \"tidemill\"\npassword = \"file:{}\"\n", password.display());
    let manifest =
        format!("{}retry = {{ initial = \"10ms\", max_attempts = 2 }}\n", manifest.replace("[nats]\n", &user));
    let script = |event: &tidemill_policy::event::Event| match event.payload.as_ref() {
        b"bad" => retry("no"),
        _ => completed(&[output("order.priced", "1")]),
    };
    let running = world.run(&manifest, script).ready().await;
    world.publish("order.placed", &[], "good").await;
    world.publish("order.placed", &[], "bad").await;
    world.wait_for("PRICED", 1).await;
    world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    world.wait_until_settled("ORDERS", "tidemill-order-pricing").await;
    world.wait_until_settled("TIDEMILL_RETRY", "tidemill-order-pricing-retry").await;
    assert!(running.status.troubles.are_none(), "{:?}", running.status.troubles.now());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_breaker_needs_the_permission_to_pause_consumers() {
    let (accounts, manifest) = documented();
    let manifest = manifest.replace("create_stream = true", "") + "circuit_breaker.failures = 3\n";
    let consumers = ["ORDERS.tidemill-order-pricing", "TIDEMILL_RETRY.tidemill-order-pricing-retry"];
    let subjects = consumers.map(|consumer| format!("$JS.API.CONSUMER.PAUSE.{consumer}"));
    let (world, password) = guarded(&accounts).await;
    let found = findings(&world, &manifest, Some(("tidemill", &password))).await;
    assert_eq!(found.conflicts.len(), 2, "{found:?}");
    for (conflict, subject) in found.conflicts.iter().zip(&subjects) {
        assert!(conflict.contains(subject) && conflict.contains("circuit_breaker"), "{conflict}");
    }
    let granted = format!("publish: [\"{}\", \"{}\"\n", subjects[0], subjects[1]);
    let (world, password) = guarded(&accounts.replacen("publish: [", &granted, 1)).await;
    assert_eq!(findings(&world, &manifest, Some(("tidemill", &password))).await, Findings::default());
}

#[tokio::test]
async fn each_permission_that_is_missing_is_named() {
    let (accounts, manifest) = documented();
    let manifest = manifest.replace("create_stream = true", "");
    let subjects: Vec<_> = accounts
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once('"'))
        .map(|(one, _)| one)
        .collect();
    assert!(subjects.len() > 10, "{subjects:?}");
    for subject in subjects {
        let (world, password) = guarded(&accounts.replace(&format!("\"{subject}\""), "\"unused\"")).await;
        let found = findings(&world, &manifest, Some(("tidemill", &password))).await;
        if ["$SYS.REQ.USER.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES"].contains(&subject) {
            assert!(found.conflicts.is_empty() && found.warnings[0].contains(subject), "{subject}: {found:?}");
            continue;
        }
        let named = found.conflicts.iter().filter(|one| one.starts_with("user \"tidemill\" may not publish on"));
        assert_eq!(named.count(), 1, "{subject}: {found:?}");
    }
}

#[tokio::test]
async fn outputs_that_may_be_published_in_part_are_a_warning() {
    let accounts = "accounts { A { jetstream: enabled, users: [ { user: admin, password: x }, \
                    { user: app, password: y, permissions: { publish: { deny: [\"out.secret\", \"$JS.ACK.>\"] } } } ] } }";
    let world = World::start_with(&format!("{accounts}\nno_auth_user: admin\n")).await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    let password = world.folder.path().join("password");
    std::fs::write(&password, "y\n").expect("written");
    let found = findings(&world, MANIFEST, Some(("app", &password))).await;
    let warning = "user \"app\" may publish on a part of \"out.>\" only, and handler.h is allowed to by allow.publish; \
                   grant all of it (permissions, publish, allow), or narrow the manifest";
    assert_eq!(found.warnings, [warning]);
    let conflict = "user \"app\" may not publish on \"$JS.ACK.IN.tidemill-h.>\", and handler.h needs it to acknowledge \
                    events; grant it (permissions, publish, allow)";
    assert_eq!(found.conflicts[0], conflict);
    assert_eq!(found.conflicts.len(), 2, "the consumer of retries as well: {found:?}");
}

#[tokio::test]
async fn check_compares_with_the_server_where_that_is_asked_for() {
    let short = Config { duplicate_window: Duration::from_secs(10), ..stream("OUT", "out.>") };
    let world = world(vec![stream("TEST", "test.>"), short]).await;
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let guests = std::env::var_os("TIDEMILL_GUESTS").map_or(usual, Into::into).canonicalize().expect("guests");
    let text = format!(
        "[nats]\nurl = \"{}\"\n[runtime]\nplugins = '{}'\n[handler.unruly]\nsubject = \"test.>\"\n\
         allow = {{ publish = [\"out.>\"] }}\n",
        world.server.url,
        guests.display()
    );
    std::fs::write(world.folder.path().join("tidemill.toml"), text).expect("written");
    let check = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.arg("check").args(arguments).current_dir(world.folder.path());
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        for name in ["TIDEMILL_NATS_URL", "TIDEMILL_LOG"] {
            command.env_remove(name);
        }
        let output = command.output().await.expect("tidemill starts");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    assert_eq!(check(&[]).await.0, Some(0));
    let (exit, said) = check(&["--server"]).await;
    let expected = "error: nats: handler.unruly: after ack_wait = 30s and limits.timeout = 2s an event may be handled";
    assert!(exit == Some(1) && said.contains(expected), "{said}");
    let names = world.context.get_stream("TIDEMILL_RETRY").await;
    assert!(names.is_err(), "nothing is made");
}
