//! Where handlers begin and go on: streams that are there are never changed, and no change of subjects, no edit of a
//! consumer and no restored stream has an event skipped in silence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use futures::StreamExt;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::consume::Spec;
use tidemill::broker::nats::durable;
use tidemill::broker::nats::owner::Owner;
use tidemill::broker::nats::preflight;
use tidemill::instance::StartError;
use tidemill::operate::rewind::{self, RewindError, To};
use tidemill_policy::manifest::Auth;

use crate::support::{Running, World, completed, eventually, parse};

const STOCK: &str = "[handler.h]\nsubject = 'stock.moved'\nstream = 'STOCK'\n";

async fn publish(world: &World, subject: &str, count: usize) {
    for n in 0..count {
        world.publish(subject, &[], n.to_string()).await;
    }
}

async fn subjects(world: &World, stream: &str) -> Vec<String> {
    world.context.get_stream(stream).await.expect("the stream").cached_info().config.subjects.clone()
}

/// The connection of a command.
async fn connected(world: &World) -> Nats {
    let urls = vec![world.server.url.clone()];
    let target = Target { urls, auth: Auth::None, tls: None, base: std::path::PathBuf::new() };
    let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
    let mut nats = Nats::new(client, link);
    nats.look_at_own("tidemill").await.expect("an answer");
    nats
}

/// The consumer, as long as there is one.
async fn info(world: &World, stream: &str, name: &str) -> Option<consumer::Info> {
    world.context.get_stream_no_info(stream).await.ok()?.consumer_info(name).await.ok()
}

async fn until_pulled(world: &World, stream: &str, name: &str) {
    eventually("it pulls", || async { (info(world, stream, name).await?.num_waiting > 0).then_some(()) }).await;
}

/// Waits until so many calls were made and nothing is left to do, and checks that no event was handled twice.
async fn handled(world: &World, running: &Running, stream: &str, count: usize) {
    running.wait_for_calls(count).await;
    world.wait_until_settled(stream, "tidemill-h").await;
    assert_eq!(running.seen().len(), count);
}

#[tokio::test]
async fn a_stream_that_is_there_is_never_changed() {
    for stored in [&["stock.moved"][..], &["stock.*", "order.>"]] {
        let world = World::start().await;
        world.stream("STOCK", stored).await;
        for create in ["", "create_stream = true"] {
            let manifest = STOCK.replace("stock.moved", "stok.moved") + create;
            let error = world.run(&manifest, |_| completed(&[])).end().await.expect_err("refused");
            let found = preflight::check(&connected(&world).await, &parse(&manifest)).await.expect("an answer");
            assert_eq!(error.to_string(), found.conflicts.join("\n"), "check --server says the same");
            let all = stored.join(",");
            for part in [
                "handler.h: stream \"STOCK\" stores \"stock.",
                "but not subject \"stok.moved\"",
                "did you mean \"stock.moved\"?",
                &format!("nats stream edit STOCK --subjects \"{all},stok.moved\""),
            ] {
                assert!(error.to_string().contains(part), "{part:?} is not in {error}");
            }
            assert_eq!(subjects(&world, "STOCK").await, stored);
        }
        // A part of what the handler names is enough.
        let wide = STOCK.replace("stock.moved", "stock.>") + "create_stream = true";
        let running = world.run(&wide, |_| completed(&[])).ready().await;
        publish(&world, "stock.moved", 1).await;
        handled(&world, &running, "STOCK", 1).await;
        assert_eq!(subjects(&world, "STOCK").await, stored);
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn handlers_that_share_a_missing_stream_make_it_for_all_their_subjects() {
    let world = World::start().await;
    let manifest = "[handler.a]\nsubject = 'a.x'\nstream = 'S'\ncreate_stream = true\n\
                    [handler.b]\nsubject = ['b.>', 'a.y']\nstream = 'S'\ncreate_stream = true\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let mut made = subjects(&world, "S").await;
    made.sort();
    assert_eq!(made, ["a.x", "a.y", "b.>"]);
    for subject in ["a.x", "a.y", "b.z"] {
        publish(&world, subject, 1).await;
    }
    running.wait_for_calls(3).await;
    // Each of them makes all of it anew.
    world.context.delete_stream("S").await.expect("deleted");
    eventually("it is back", || async {
        let mut stream = world.context.get_stream("S").await.ok()?;
        (stream.info().await.ok()?.config.subjects.len() == 3).then_some(())
    })
    .await;
    running.drain().await.expect("drains");
}

/// The server moves a consumer on while nothing matches. `typos` events match meanwhile.
async fn corrected(typos: usize, is_killed: bool) {
    let world = World::start().await;
    world.stream("STOCK", &["stock.moved", "stok.moved"]).await;
    publish(&world, "stock.moved", 20).await;
    let typo = STOCK.replace("stock.moved", "stok.moved");
    let running = world.run(&typo, |_| completed(&[])).ready().await;
    publish(&world, "stok.moved", typos).await;
    handled(&world, &running, "STOCK", typos).await;
    publish(&world, "stock.moved", 40).await;
    until_pulled(&world, "STOCK", "tidemill-h").await;
    running.drain().await.expect("drains");
    let world = if is_killed {
        let World { server, folder, .. } = world;
        server.kill().await;
        World::in_folder(folder, "").await
    } else {
        world
    };
    let running = world.run(STOCK, |_| completed(&[])).ready().await;
    let behind = if typos == 0 { 0 } else { 20 };
    if is_killed {
        // It may have forgotten how far the consumer was: then less is left behind.
        running.wait_for_calls(60 - behind).await;
        world.wait_until_settled("STOCK", "tidemill-h").await;
        let ids: BTreeSet<_> = running.seen().into_iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), running.seen().len(), "no event is handled twice");
    } else {
        handled(&world, &running, "STOCK", 60 - behind).await;
    }
    running.drain().await.expect("drains");
    // What was there before an event that was handled is left behind, and told; it can be asked for.
    let nats = connected(&world).await;
    let manifest = parse(STOCK);
    let moved = rewind::rewind(&nats, &manifest, &manifest.handlers["h"], To::First).await.expect("moved");
    assert_eq!((moved.from, moved.stream.as_str()), (1, "STOCK"));
    let running = world.run(STOCK, |_| completed(&[])).ready().await;
    handled(&world, &running, "STOCK", 60).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn events_that_were_stored_while_a_subject_was_wrong_are_handled_when_it_is_corrected() {
    corrected(0, false).await;
}

#[tokio::test]
async fn a_corrected_subject_begins_after_what_was_handled_under_the_wrong_one() {
    corrected(3, false).await;
}

#[tokio::test]
async fn a_corrected_subject_skips_nothing_if_the_server_was_killed_meanwhile() {
    corrected(3, true).await;
}

fn spec(filters: &[&str]) -> Spec {
    let owner = Owner { prefix: "tidemill".into(), handler: "h".into(), stream: "IN".into(), ..Owner::default() };
    Spec {
        stream: "IN".into(),
        stream_created_unix: 0,
        create_with: None,
        repeats_within: Duration::ZERO,
        name: "tidemill-h".into(),
        filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        ack_wait: Duration::from_secs(1),
        max_ack_pending: 100,
        credit: 2,
        broadcast: false,
        replicas: 0,
        source: tidemill::broker::Source::Input,
        is_ordered: false,
        turns: None,
        owner: owner.into(),
        progress: Arc::default(),
    }
}

/// Takes messages and acknowledges the first `acked` of them; returns their sequences.
async fn take(world: &World, count: usize, acked: usize) -> Vec<u64> {
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    let consumer: consumer::Consumer<pull::Config> = stream.get_consumer("tidemill-h").await.expect("the consumer");
    let batch = consumer.fetch().max_messages(count).expires(Duration::from_secs(1)).messages().await;
    let messages: Vec<_> = batch.expect("messages").map(|message| message.expect("a message")).collect().await;
    for message in messages.iter().take(acked) {
        message.double_ack().await.expect("acknowledged");
    }
    messages.iter().map(|message| message.info().expect("a place").stream_sequence).collect()
}

#[tokio::test]
async fn a_change_of_subjects_is_told_with_the_command_to_go_back() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let nats = connected(&world).await;
    publish(&world, "in.b", 3).await;
    publish(&world, "in.a", 2).await;
    assert_eq!(durable::ensure(&nats, &spec(&["in.a"])).await.expect("made"), [""; 0]);
    assert_eq!(take(&world, 5, 2).await, [4, 5]);
    publish(&world, "in.b", 2).await;
    let notes = durable::ensure(&nats, &spec(&["in.a", "in.b"])).await.expect("changed");
    let [note] = &notes[..] else { panic!("{notes:?}") };
    for part in
        ["had subject in.a, and now has in.a, in.b", "goes on with sequence 6", "tidemill rewind h --to 1 --yes"]
    {
        assert!(note.contains(part), "{part:?} is not in {note}");
    }
    assert_eq!(take(&world, 5, 1).await, [6, 7], "what is new since");
    assert_eq!(durable::ensure(&nats, &spec(&["in.b", "in.a"])).await.expect("as it was"), [""; 0]);
    // One is in flight, and is not given up for others.
    let notes = durable::ensure(&nats, &spec(&["in.>"])).await.expect("changed");
    assert!(notes.is_empty(), "nothing is there that it could skip: {notes:?}");
    assert_eq!(durable::ensure(&nats, &spec(&["in.b"])).await.expect("narrowed"), [""; 0], "it selected that before");
    publish(&world, "in.c", 1).await;
    let notes = durable::ensure(&nats, &spec(&["in.b", "in.c"])).await.expect("changed");
    let told = "while 1 events are in flight";
    assert!(notes.iter().any(|note| note.contains(told) && note.contains("tidemill rewind h --to 7")), "{notes:?}");
}

/// Whoever pulls moves the durable on under the subjects that it has at that moment.
#[tokio::test]
async fn a_change_of_subjects_skips_nothing_while_somebody_pulls() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let nats = connected(&world).await;
    assert_eq!(durable::ensure(&nats, &spec(&["in.typo"])).await.expect("made"), [""; 0]);
    let sequences = Arc::<std::sync::Mutex<Vec<u64>>>::default();
    let (url, taken) = (world.server.url.clone(), Arc::clone(&sequences));
    let consumer_task = tokio::spawn(async move {
        let context = async_nats::jetstream::new(async_nats::connect(url).await.expect("a connection"));
        loop {
            let Ok(stream) = context.get_stream_no_info("IN").await else { continue };
            let Ok(consumer) = stream.get_consumer::<pull::Config>("tidemill-h").await else { continue };
            let Ok(mut batch) = consumer.fetch().max_messages(100).expires(Duration::from_secs(1)).messages().await
            else {
                continue;
            };
            while let Some(Ok(message)) = batch.next().await {
                message.double_ack().await.expect("acknowledged");
                let sequence = message.info().expect("a place").stream_sequence;
                taken.lock().expect("not poisoned").push(sequence);
            }
        }
    });
    for round in 1..=5_u64 {
        until_pulled(&world, "IN", "tidemill-h").await;
        let filter = if round % 2 == 1 { "in.a" } else { "in.b" };
        publish(&world, filter, 6).await;
        durable::ensure(&nats, &spec(&[filter])).await.expect("corrected");
        let wanted: Vec<u64> = (1..=round * 6).collect();
        eventually("all are handled", || async {
            (sequences.lock().expect("not poisoned").len() >= wanted.len()).then_some(())
        })
        .await;
        assert_eq!(*sequences.lock().expect("not poisoned"), wanted);
    }
    consumer_task.abort();
}

#[tokio::test]
async fn a_change_of_subjects_that_was_cut_off_is_completed() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let nats = connected(&world).await;
    if nats.features.api_level < 4 {
        return;
    }
    publish(&world, "in.a", 3).await;
    assert_eq!(durable::ensure(&nats, &spec(&["in.b"])).await.expect("made"), [""; 0]);
    publish(&world, "in.b", 1).await;
    assert_eq!(take(&world, 5, 1).await, [4]);
    // Its subjects are the new ones, and it was not set back.
    let mut config = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    config.filter_subject = "in.>".into();
    config.metadata.insert("tidemill.goes_on".into(), "2".into());
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    stream.update_consumer(config).await.expect("as it was cut off");
    let notes = durable::ensure(&nats, &spec(&["in.>"])).await.expect("completed");
    assert!(notes.iter().any(|note| note.contains("goes on with sequence 2")), "{notes:?}");
    assert_eq!(take(&world, 5, 3).await, [2, 3, 4]);
    assert_eq!(durable::ensure(&nats, &spec(&["in.>"])).await.expect("done"), [""; 0]);
    assert_eq!(take(&world, 5, 0).await, [0; 0]);
}

/// What waits in a stream of ours was not handled.
#[tokio::test]
async fn a_consumer_of_retries_that_selected_something_else_goes_through_all_of_them() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n\
                    retry = { max_attempts = 2, initial = '300ms', jitter = 0.0, in_memory = '0s' }\n";
    let script = |event: &tidemill_policy::event::Event| match event.attempt.get() {
        1 => crate::support::retry("not yet"),
        _ => completed(&[]),
    };
    let running = world.run(manifest, script).ready().await;
    let stream = world.context.get_stream_no_info("TIDEMILL_RETRY").await.expect("the stream");
    let mut edited = info(&world, "TIDEMILL_RETRY", "tidemill-h-retry").await.expect("the consumer").config;
    (edited.filter_subject, edited.filter_subjects) = ("tidemill.retry.due.zzz".into(), Vec::new());
    stream.update_consumer(edited).await.expect("edited");
    publish(&world, "in.a", 5).await;
    running.wait_for_calls(5).await;
    eventually("the retries are due and stay", || async {
        let info = info(&world, "TIDEMILL_RETRY", "tidemill-h-retry").await?;
        let stream = world.context.get_stream("TIDEMILL_RETRY").await.ok()?;
        (stream.cached_info().state.messages == 5 && info.num_pending == 0).then_some(())
    })
    .await;
    running.drain().await.expect("drains");
    let running = world.run(manifest, script).ready().await;
    running.wait_for_calls(5).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_event_whose_payload_the_server_leaves_out_is_not_run_without_it() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nack_wait = '2s'\nlimits = { timeout = '1s' }\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    publish(&world, "in.x", 1).await;
    running.wait_for_calls(1).await;
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    let mut edited = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    edited.headers_only = true;
    stream.update_consumer(edited).await.expect("edited");
    for n in 0..20 {
        world.publish("in.x", &[], format!("payload {n}")).await;
    }
    // A producer may say the same of a payload that is empty.
    world.publish("in.x", &[("Nats-Msg-Size", "7")], "").await;
    let seen = running.wait_for_calls(22).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(running.seen().len(), 22);
    assert_eq!(seen.iter().filter(|event| event.payload.is_empty()).count(), 1, "{seen:?}");
    assert!(!info(&world, "IN", "tidemill-h").await.expect("the consumer").config.headers_only);
    running.drain().await.expect("drains");
}

/// What a work queue still has was not handled, wherever it is.
#[tokio::test]
async fn a_work_queue_is_gone_through_from_its_beginning_when_subjects_change() {
    let world = World::start().await;
    let config = Config { retention: RetentionPolicy::WorkQueue, ..World::config("STOCK", &["stock.*", "stok.*"]) };
    world.context.create_stream(config).await.expect("a stream");
    publish(&world, "stock.moved", 2).await;
    let typo = STOCK.replace("stock.moved", "stok.moved");
    let running = world.run(&typo, |_| completed(&[])).ready().await;
    publish(&world, "stok.moved", 2).await;
    handled(&world, &running, "STOCK", 2).await;
    running.drain().await.expect("drains");
    let running = world.run(STOCK, |_| completed(&[])).ready().await;
    handled(&world, &running, "STOCK", 2).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_limit_on_deliveries_loses_no_event_that_was_cut_off() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    if world.client.server_info().version.starts_with("2.10.") {
        return;
    }
    let nats = connected(&world).await;
    durable::ensure(&nats, &spec(&["in.>"])).await.expect("made");
    let mut config = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    (config.max_deliver, config.headers_only) = (1, true);
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    stream.create_consumer(config).await.expect("edited by hand");
    publish(&world, "in.x", 3).await;
    // Whoever has them dies.
    assert_eq!(take(&world, 3, 0).await, [1, 2, 3]);
    eventually("the server has given up", || async {
        (info(&world, "IN", "tidemill-h").await?.num_ack_pending == 0).then_some(())
    })
    .await;
    let running = world.run("[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n", |_| completed(&[])).ready().await;
    handled(&world, &running, "IN", 3).await;
    assert!(running.seen().iter().all(|event| !event.payload.is_empty()), "with their payloads");
    let now = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    assert_eq!((now.max_deliver, now.headers_only), (-1, false));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_consumer_that_cannot_be_made_fit_is_refused_by_name_and_made_anew_where_it_stands() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    publish(&world, "in.x", 4).await;
    let unfit = pull::Config {
        durable_name: Some("tidemill-h".into()),
        ack_policy: AckPolicy::None,
        filter_subject: "in.>".into(),
        ..pull::Config::default()
    };
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    stream.create_consumer(unfit).await.expect("a consumer");
    assert_eq!(take(&world, 2, 0).await, [1, 2]);
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n";
    let error = world.run(manifest, |_| completed(&[])).end().await.expect_err("refused");
    for part in ["ack_policy = None", "tidemill rewind h --to 3 --yes", "nats consumer rm IN tidemill-h"] {
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    }
    let parsed = parse(manifest);
    let nats = connected(&world).await;
    let moved = rewind::rewind(&nats, &parsed, &parsed.handlers["h"], To::Sequence(3)).await.expect("moved");
    assert_eq!(moved.from, 3);
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    handled(&world, &running, "IN", 2).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_handler_goes_on_where_it_is_told_to() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n[handler.q]\nsubject = 'in.>'\nstream = 'IN'\n\
                    mode = 'broadcast'\n";
    let parsed = parse(manifest);
    publish(&world, "in.x", 3).await;
    let middle = time::OffsetDateTime::now_utc();
    tokio::time::sleep(Duration::from_millis(5)).await;
    publish(&world, "in.x", 3).await;
    let nats = connected(&world).await;
    let go = async |to| rewind::rewind(&nats, &parsed, &parsed.handlers["h"], to).await;
    for (to, from) in [(To::First, 1), (To::Sequence(5), 5), (To::Sequence(99), 7), (To::Time(middle), 4)] {
        assert_eq!(go(to).await.expect("moved").from, from, "{to:?}");
    }
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    running.wait_for_calls(3).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let in_place = nats.features.api_level >= 4;
    match go(To::Sequence(6)).await {
        Ok(moved) => {
            assert!(in_place);
            assert_eq!(moved.was_at, Some(6));
            running.wait_for_calls(4).await;
        }
        Err(error) => assert!(!in_place && matches!(error, RewindError::AtWork { .. }), "{error}"),
    }
    let refused = rewind::rewind(&nats, &parsed, &parsed.handlers["q"], To::First).await.expect_err("refused");
    assert!(refused.to_string().contains("broadcast"), "{refused}");
    running.drain().await.expect("drains");
}

/// The consumer of an instance that reads for itself goes when nobody pulls for a while.
#[tokio::test]
async fn an_instance_that_reads_for_itself_goes_on_behind_what_it_had() {
    let world = World::start().await;
    world.stream("ALL", &["all.>"]).await;
    publish(&world, "all.before", 2).await;
    let manifest = "[handler.b]\nsubject = 'all.>'\nstream = 'ALL'\nmode = 'broadcast'\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let name = format!("tidemill-b-{}", running.status.name);
    for round in 0..3 {
        // Nobody had anything yet in the first one.
        publish(&world, "all.x", usize::from(round > 0)).await;
        let had = running.wait_for_calls(6 * round).await.len();
        let mut stream = world.context.get_stream("ALL").await.expect("the stream");
        stream.delete_consumer(&name).await.expect("deleted");
        publish(&world, "all.y", 5).await;
        running.wait_for_calls(had + 5).await;
        assert_eq!(stream.info().await.expect("info").state.consumer_count, 1);
    }
    let seen = running.seen();
    assert_eq!(seen.len(), 17, "and nothing of before: {seen:#?}");
    // What is made anew begins anew, and what is in it is new.
    world.context.delete_stream("ALL").await.expect("deleted");
    world.stream("ALL", &["all.>"]).await;
    publish(&world, "all.z", 2).await;
    running.wait_for_calls(19).await;
    running.drain().await.expect("drains");
}

/// Of a stream that is restored with or without its consumers, what is stored afterwards is handled.
async fn restored(with_consumers: bool) {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    publish(&world, "in.x", 3).await;
    handled(&world, &running, "IN", 3).await;
    let port = world.server.url.rsplit(':').next().and_then(|port| port.parse().ok());
    let World { server, folder, .. } = world;
    server.stop().await;
    let (stream, backup) = (find(folder.path(), "IN"), folder.path().join("backup"));
    copy(&stream, &backup);
    let world = World::in_folder_at(folder, port, "").await;
    eventually("it is back", || async { running.status.is_ready().then_some(()) }).await;
    publish(&world, "in.x", 5).await;
    handled(&world, &running, "IN", 8).await;
    let World { server, folder, .. } = world;
    server.stop().await;
    let [present, before] = if with_consumers { [stream, backup] } else { [stream, backup].map(|at| at.join("msgs")) };
    std::fs::remove_dir_all(&present).expect("removed");
    copy(&before, &present);
    let world = World::in_folder_at(folder, port, "").await;
    eventually("it is said", || async {
        let troubles = running.status.report().instance.troubles;
        troubles.iter().any(|one| one.why.contains("was set back from sequence 8 to 3")).then_some(())
    })
    .await;
    publish(&world, "in.x", 2).await;
    running.wait_for_calls(10).await;
    running.drain().await.expect("drains");
}

fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten().filter(|entry| entry.path().is_dir()) {
            if entry.file_name() == name && entry.path().join("msgs").is_dir() {
                return entry.path();
            }
            folders.push(entry.path());
        }
    }
    panic!("no stream {name}")
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_stream_that_was_set_back_with_its_consumers_is_noticed_and_goes_on() {
    restored(true).await;
}

#[tokio::test]
async fn a_stream_that_was_set_back_alone_is_noticed_and_goes_on() {
    restored(false).await;
}

/// Two deployments under one name.
#[tokio::test]
async fn a_deployment_that_reads_something_else_under_the_same_name_is_refused() {
    let world = World::start().await;
    world.stream("A", &["a.>"]).await;
    world.stream("B", &["b.>"]).await;
    let of = |subject: &str, stream: &str| format!("[handler.h]\nsubject = '{subject}'\nstream = '{stream}'\n");
    let first = world.run(&of("a.>", "A"), |_| completed(&[])).ready().await;
    let second = world.run(&of("a.>", "A"), |_| completed(&[])).ready().await;
    for other in [of("b.>", "B"), of("a.x", "A")] {
        let error = world.run(&other, |_| completed(&[])).end().await.expect_err("refused");
        assert!(matches!(error, StartError::Consumer { .. }), "{error}");
        for part in ["\"a.>\" of stream \"A\"", "[nats] prefix", "handler.h"] {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
    }
    let elsewhere =
        world.run(&format!("[nats]\nprefix = 'other'\n{}", of("b.>", "B")), |_| completed(&[])).ready().await;
    elsewhere.drain().await.expect("drains");
    let shared = format!("[nats]\nprefix = 'other'\n{}durable = 'tidemill-h'\n", of("a.>", "A"));
    let error = world.run(&shared, |_| completed(&[])).end().await.expect_err("refused");
    assert!(error.to_string().contains("choose another name with durable"), "{error}");
    publish(&world, "a.x", 2).await;
    eventually("they are handled", || async { (first.seen().len() + second.seen().len() == 2).then_some(()) }).await;
    first.drain().await.expect("drains");
    second.drain().await.expect("drains");
    let later = world.run(&of("b.>", "B"), |_| completed(&[])).ready().await;
    publish(&world, "b.x", 1).await;
    handled(&world, &later, "B", 1).await;
    later.drain().await.expect("drains");
}

/// As a server before 2.11 leaves it: markers are to be kept for as long as the manifest says.
#[tokio::test]
async fn the_bucket_of_markers_keeps_them_for_as_long_as_they_are_needed() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let bucket = Config {
        name: "KV_tidemill_done".into(),
        subjects: vec!["$KV.tidemill_done.>".into()],
        max_messages_per_subject: 5,
        max_messages: 3,
        max_age: Duration::from_hours(25),
        allow_rollup: true,
        ..Config::default()
    };
    world.context.create_stream(bucket).await.expect("a stream");
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\ndedup = { key = 'id', window = '30d' }\n";
    let found = preflight::check(&connected(&world).await, &parse(manifest)).await.expect("an answer");
    assert_eq!(found.conflicts, [""; 0]);
    let told = |part: &str| {
        found.warnings.iter().any(|warning| warning.contains("KV_tidemill_done") && warning.contains(part))
    };
    assert!(told("max_age was 1d 1h, less than the 30d") && told("discard was old"), "{:#?}", found.warnings);
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let now = world.context.get_stream("KV_tidemill_done").await.expect("the bucket").cached_info().config.clone();
    assert!(now.max_age.is_zero() || now.max_age >= Duration::from_hours(30 * 24), "{:?}", now.max_age);
    assert!(now.max_messages_per_subject == 1 && now.allow_direct);
    assert_eq!(now.discard, async_nats::jetstream::stream::DiscardPolicy::New);
    running.drain().await.expect("drains");
}

/// No server lets a stream with schedules refuse what does not fit.
#[tokio::test]
async fn limits_on_the_stream_of_retries_are_lifted() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n";
    world.run(manifest, |_| completed(&[])).ready().await.drain().await.expect("drains");
    let mut edited = world.context.get_stream("TIDEMILL_RETRY").await.expect("ours").cached_info().config.clone();
    (edited.max_messages, edited.max_bytes) = (1_000, 1_000_000);
    world.context.update_stream(edited).await.expect("edited");
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let now = world.context.get_stream("TIDEMILL_RETRY").await.expect("ours").cached_info().config.clone();
    let refuses = now.discard == async_nats::jetstream::stream::DiscardPolicy::New;
    assert!(refuses || now.max_messages < 1 && now.max_bytes < 1, "{now:?}");
    running.drain().await.expect("drains");
}

/// This takes as long as an instance may take to look.
#[tokio::test]
async fn what_somebody_edits_while_an_instance_runs_is_put_right_and_said() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let stream = world.context.get_stream_no_info("IN").await.expect("the stream");
    let mut edited = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    (edited.max_deliver, edited.max_batch) = (1, 1);
    stream.create_consumer(edited).await.expect("edited");
    let mut retry = world.context.get_stream("TIDEMILL_RETRY").await.expect("ours").cached_info().config.clone();
    retry.max_age = Duration::from_hours(1);
    world.context.update_stream(retry).await.expect("edited");
    eventually("both are put right", || async {
        let consumer = info(&world, "IN", "tidemill-h").await?.config;
        let retry = world.context.get_stream("TIDEMILL_RETRY").await.ok()?.cached_info().config.max_age;
        (consumer.max_deliver == -1 && consumer.max_batch == 0 && retry.is_zero()).then_some(())
    })
    .await;
    eventually("both are shown", || async {
        let troubles = running.status.report().instance.troubles;
        let shows = |part: &str| troubles.iter().any(|one| one.why.contains(part));
        (shows("max_deliver = 1; max_batch = 1") && shows("max_age was 1h")).then_some(())
    })
    .await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn what_was_to_go_on_somewhere_does_so_if_its_maker_died() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    publish(&world, "in.x", 4).await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\n";
    world.run(manifest, |_| completed(&[])).ready().await.drain().await.expect("drains");
    // Between the removal of the consumer and the making of its successor.
    let kept = "{\"stream\":\"IN\",\"from\":3}";
    world.publish("$KV.tidemill_done.place.tidemill-h", &[], kept).await;
    world.context.delete_consumer_from_stream("tidemill-h", "IN").await.expect("deleted");
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    handled(&world, &running, "IN", 2).await;
    let config = info(&world, "IN", "tidemill-h").await.expect("the consumer").config;
    assert_eq!(config.deliver_policy, DeliverPolicy::ByStartSequence { start_sequence: 3 });
    running.drain().await.expect("drains");
    // Nobody can have meant a place behind all that is stored.
    let kept = "{\"stream\":\"IN\",\"from\":9223372036854775808}";
    world.publish("$KV.tidemill_done.place.tidemill-h", &[], kept).await;
    world.context.delete_consumer_from_stream("tidemill-h", "IN").await.expect("deleted");
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    publish(&world, "in.x", 1).await;
    handled(&world, &running, "IN", 1).await;
    running.drain().await.expect("drains");
}
