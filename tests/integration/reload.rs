//! Hot reload: what is swapped while events flow, what is refused, and what is gone back from.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::support::{World, eventually};
use folder::{Folder, Live, echo, subject, version};

mod flow;
pub(crate) mod folder;
mod places;
pub(crate) mod process;
mod trial;

/// A handler that runs versions of the echo component, whatever they are.
const HANDLER: &str = "
[runtime]
listen = 'off'

[handler.h]
subject = 'in.>'
allow = { publish = ['out.>'] }
reload = { guard = '0s' }
";

/// A world with the streams `IN` and `OUT`, and a folder in which handler `h` runs `component`.
async fn scene(manifest: &str, component: &[u8]) -> (World, Folder) {
    let world = World::in_and_out().await;
    let folder = Folder::new(manifest);
    folder.put("plugins/h.wasm", component);
    (world, folder)
}

/// The subject of the output for each payload. Each event must have one.
async fn outputs(world: &World, count: u64) -> BTreeMap<String, String> {
    let messages = world.wait_for("OUT", count).await;
    let all: BTreeMap<_, _> =
        messages.iter().map(|one| (String::from_utf8_lossy(&one.payload).into_owned(), one.subject.clone())).collect();
    assert_eq!(all.len(), messages.len(), "no output twice");
    all
}

async fn publish(world: &World, payload: &str) {
    world.publish("in.x", &[], payload.to_owned()).await;
}

/// Waits until the retry stream holds one event.
async fn a_retry_waits(world: &World) {
    eventually("a retry waits", || async {
        let mut stream = world.context.get_stream("TIDEMILL_RETRY").await.ok()?;
        (stream.info().await.ok()?.state.messages == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_component_takes_the_next_event() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    folder.put("plugins/h.wasm", version(&subject(2)));
    let report = live.reloaded().await;
    assert_eq!((report.applied.swapped, report.applied.restarted), (vec!["h".to_owned()], vec![]));
    publish(&world, "b").await;
    assert_eq!(outputs(&world, 2).await["b"], subject(2));
    let again = live.reloaded().await;
    assert!(again.applied.is_nothing(), "{again:?}");
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_what_runs_goes_on() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", "garbage");
    live.refused("not a WebAssembly component").await;
    let whole = version(&subject(2));
    folder.put("plugins/h.wasm", &whole[..whole.len() / 2]);
    live.refused("handler.h: ").await;
    fs::remove_file(folder.path("plugins/h.wasm")).expect("removed");
    live.refused("h.wasm").await;
    folder.put("plugins/h.wasm", &whole);
    for (manifest, why) in [
        ("[handler.h\n", "tidemill.toml"),
        (&HANDLER.replace("subject", "subjekt"), "did you mean"),
        ("[runtime]\nlisten = 'off'\n", "has no handlers"),
        (&HANDLER.replace("'in.>'", "'nowhere.>'"), "no stream stores subject"),
        (&format!("{HANDLER}\n[nats]\nprefix = 'other'\n"), "nats.prefix cannot change while the instance runs"),
        (
            &HANDLER.replace("[handler.h]", "[handler.h]\nsecrets = { a = 'env:TIDEMILL_TEST_UNSET' }"),
            "TIDEMILL_TEST_UNSET",
        ),
    ] {
        folder.put("tidemill.toml", manifest);
        live.refused(why).await;
        let troubles = live.status.report().instance.troubles;
        assert!(troubles.iter().any(|trouble| trouble.what == "reload" && trouble.why.contains(why)), "{troubles:?}");
    }
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1), "nothing of what was refused has any effect");
    folder.put("tidemill.toml", HANDLER);
    live.reloaded().await;
    assert!(live.status.report().instance.troubles.is_empty());
    publish(&world, "b").await;
    assert_eq!(outputs(&world, 2).await["b"], subject(2));
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_fails_its_cases_gets_no_event() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    fs::create_dir(folder.path("plugins/h.cases")).expect("made");
    let case = "[event]\nsubject = 'in.x'\npayload = 'a'\n\n[expect]\noutcome = 'completed'\noutputs = [{ subject = 'out.0001' }]\n";
    folder.put("plugins/h.cases/echo.toml", case);
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.refused("echo.toml failed: ").await;
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    folder.put("plugins/h.cases/echo.toml", case.replace("0001", "0002"));
    live.reloaded().await;
    publish(&world, "b").await;
    assert_eq!(outputs(&world, 2).await["b"], subject(2));
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_are_added_and_removed_and_the_others_are_not_touched() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    world.stream("MORE", &["more.>"]).await;
    let live = folder.start(&world, false).await;
    let consumer =
        world.context.get_stream("IN").await.expect("IN").consumer_info("tidemill-h").await.expect("a consumer");
    let body = "subject = 'more.>'\nallow = { publish = ['out.>'] }\n";
    folder.put("plugins/dropped.wasm", version(&subject(9)));
    folder.put("plugins/dropped.toml", body);
    assert_eq!(live.reloaded().await.applied.added, ["dropped"]);
    world.publish("more.x", &[], "a").await;
    publish(&world, "b").await;
    let both = outputs(&world, 2).await;
    assert_eq!((both["a"].as_str(), both["b"].as_str()), (subject(9).as_str(), subject(1).as_str()));
    fs::remove_file(folder.path("plugins/dropped.toml")).expect("removed");
    assert_eq!(live.reloaded().await.applied.removed, ["dropped"]);
    assert_eq!(live.status.handlers(), ["h"]);
    // What arrives meanwhile waits in its stream.
    world.publish("more.x", &[], "c").await;
    folder.put("plugins/dropped.toml", body);
    live.reloaded().await;
    assert_eq!(outputs(&world, 3).await["c"], subject(9));
    let after =
        world.context.get_stream("IN").await.expect("IN").consumer_info("tidemill-h").await.expect("a consumer");
    assert_eq!(after.created, consumer.created);
    live.stop().await;
}

/// Concurrency and acknowledgement reach the consumer, the subject as well: the handler is drained and started.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_concerns_the_consumer_is_applied_without_losing_an_event() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    for (number, (old, new)) in
        [("'in.>'", "'in.x'"), ("'in.>'", "['in.x', 'in.y']"), ("'in.>'", "'in.>'\nconcurrency = 3")]
            .into_iter()
            .enumerate()
    {
        publish(&world, &format!("before {number}")).await;
        folder.put("tidemill.toml", HANDLER.replace(old, new));
        assert_eq!(live.reloaded().await.applied.restarted, ["h"]);
        publish(&world, &format!("after {number}")).await;
    }
    assert_eq!(outputs(&world, 6).await.len(), 6);
    let consumer =
        world.context.get_stream("IN").await.expect("IN").consumer_info("tidemill-h").await.expect("a consumer");
    assert_eq!(consumer.config.filter_subject, "in.>");
    live.stop().await;
}

/// What is published while a broadcast handler is drained and started is for it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_handler_that_is_restarted_misses_nothing() {
    let manifest = HANDLER.replace("[handler.h]", "[handler.h]\nmode = 'broadcast'");
    let (world, folder) = scene(&manifest, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    let context = world.context.clone();
    let feed = tokio::spawn(async move {
        for number in 0..2_000 {
            context.publish("in.x", number.to_string().into()).await.expect("sent").await.expect("confirmed");
        }
    });
    let mut concurrency = 1;
    while !feed.is_finished() {
        concurrency += 1;
        folder.put(
            "tidemill.toml",
            manifest.replace("[handler.h]", &format!("[handler.h]\nconcurrency = {concurrency}")),
        );
        assert_eq!(live.reloaded().await.applied.restarted, ["h"]);
    }
    feed.await.expect("published");
    assert_eq!(outputs(&world, 2_000).await.len(), 2_000);
    live.stop().await;
}

/// Nothing is lost by asking too early. The server's answer to the first change after its restart is out of date.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_while_there_is_no_server_is_done_when_there_is_one() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    let World { server, folder: data, .. } = world;
    let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok());
    assert!(port.is_some(), "the server has a port");
    server.kill().await;
    eventually("the loss is noticed", || async { (!live.status.is_connected()).then_some(()) }).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    // What needs no server is swapped at once.
    live.reloaded().await;
    folder.put("tidemill.toml", HANDLER.replace("'in.>'", "'in.x'"));
    live.refused("answer").await;
    let world = World::in_folder_at(data, port, "").await;
    eventually("it is done", || async {
        let report = live.status.report().instance;
        (report.ready && report.troubles.is_empty()).then_some(())
    })
    .await;
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(2));
    live.stop().await;
}

/// A lower limit of attempts must not lose what waits for another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_retry_stream_is_handled_by_what_runs_then() {
    let failing = HANDLER.replace(
        "'0s' }",
        "'0s' }\nretry = { initial = '1s', in_memory = '0s', max_attempts = 9 }\ndead_letter = { on = [] }",
    );
    let failing = failing.replace("allow =", "# allow =");
    let failing = failing.replace("in_memory = '0s',", "in_memory = '0s', on = ['output'],");
    let (world, folder) = scene(&failing, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    publish(&world, "a").await;
    a_retry_waits(&world).await;
    folder
        .put("tidemill.toml", failing.replace("# allow =", "allow =").replace("max_attempts = 9", "max_attempts = 2"));
    live.reloaded().await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    live.stop().await;
}

/// Its events are told of, kept, and handled when it is there again.
#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_handler_that_is_removed_are_kept_and_told_of() {
    let two = format!(
        "{HANDLER}\n[handler.other]\nsubject = 'more.>'\ncomponent = 'h.wasm'\nretry = {{ initial = '3s', in_memory = '0s', on = ['output'], jitter = 0.0 }}\n"
    );
    let (world, folder) = scene(&two, &version(&subject(1))).await;
    world.stream("MORE", &["more.>"]).await;
    let live = folder.start(&world, false).await;
    world.publish("more.x", &[], "a").await;
    a_retry_waits(&world).await;
    folder.put("tidemill.toml", HANDLER);
    let report = live.reloaded().await;
    assert_eq!(report.applied.removed, ["other"]);
    assert!(
        report.applied.notes.iter().any(|note| note.contains("handler.other was removed, and 1 of its events")),
        "{report:?}"
    );
    folder.put("tidemill.toml", format!("{two}allow = {{ publish = ['out.>'] }}\n"));
    live.reloaded().await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    live.stop().await;
}
