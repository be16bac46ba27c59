//! New versions on trial: those that fail are gone back from.

use super::*;

/// The subject of a version that fails: the handler may not publish on it.
const FAILING: &str = "bad.0001";

fn manifest(reload: &str) -> String {
    HANDLER.replace("reload = { guard = '0s' }", &format!("reload = {{ {reload} }}"))
}

async fn publish_all(world: &World, what: &str, count: usize) {
    for number in 0..count {
        publish(world, &format!("{what} {number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_is_gone_back_from_and_what_it_gave_up_on_is_run_again() {
    let manifest = manifest("guard = '60s', min_events = 5, rerun = true");
    let (world, folder) = scene(&manifest, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    publish_all(&world, "before", 10).await;
    outputs(&world, 10).await;
    let failing = version(FAILING);
    folder.put("plugins/h.wasm", &failing);
    live.reloaded().await;
    publish_all(&world, "bad", 5).await;
    live.runs("h", &version(&subject(1))).await;
    let troubles = live.status.report().instance.troubles;
    assert!(troubles.iter().any(|trouble| trouble.why.contains("went back from version")), "{troubles:?}");
    publish_all(&world, "after", 5).await;
    let all = outputs(&world, 20).await;
    assert!(all.values().all(|used| *used == subject(1)), "{all:?}");
    eventually("no dead letter is left", || async {
        world.messages("TIDEMILL_DEADLETTER").await.is_empty().then_some(())
    })
    .await;

    // It is not tried again until another file is there, not even by a new process.
    assert!(live.reloaded().await.applied.is_nothing());
    live.stop().await;
    let live = folder.start(&world, false).await;
    live.runs("h", &version(&subject(1))).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.reloaded().await;
    publish_all(&world, "corrected", 1).await;
    assert_eq!(outputs(&world, 21).await["corrected 0"], subject(2));
    assert!(live.status.report().instance.troubles.is_empty());
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_well_is_kept_when_its_time_is_over() {
    let (world, folder) = scene(&manifest("guard = '1s'"), &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.reloaded().await;
    let trial = live.status.report().handlers["h"].trial.as_ref().map(|trial| trial.component.clone());
    assert_eq!(trial, Some(tidemill::invoker::wasm::digest(&version(&subject(2)))));
    publish_all(&world, "a", 3).await;
    assert!(outputs(&world, 3).await.values().all(|used| *used == subject(2)));
    live.runs("h", &version(&subject(2))).await;
    live.stop().await;
    let live = folder.start(&world, false).await;
    assert!(live.status.report().handlers["h"].trial.is_none(), "it has passed its trial");
    live.stop().await;
}

/// While another takes all events it keeps no instances; then it has to keep them again, as each start costs time.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_put_back_during_a_trial_reuses_its_instances() {
    let counts =
        fs::read(crate::cli::guests().join("unruly.wasm")).expect("the unruly component; run cargo xtask guests");
    let (world, folder) = scene(&manifest("guard = '1h'"), &counts).await;
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", folder::with(counts.clone(), "asked to panic", "asked to dance"));
    live.reloaded().await;
    publish(&world, "count").await;
    world.wait_for("OUT", 1).await;
    folder.put("plugins/h.wasm", &counts);
    live.reloaded().await;
    assert!(live.status.report().handlers["h"].trial.is_none());
    let mut seen = Vec::new();
    for done in 2..=4 {
        publish(&world, "count").await;
        let messages = world.wait_for("OUT", done).await;
        seen.push(String::from_utf8_lossy(&messages.last().expect("an output").payload).into_owned());
    }
    assert_eq!(seen, ["1", "2", "3"], "each of its instances counts its calls");
    live.stop().await;
}

/// The old version takes the rest; a restart in the middle changes nothing about who takes which event.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_of_events_also_after_a_restart() {
    let (world, folder) = scene(&manifest("guard = '1h', canary = 0.3"), &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.reloaded().await;
    for number in 0..200 {
        world.publish("in.x", &[("Nats-Msg-Id", &number.to_string())], number.to_string()).await;
    }
    let share = |all: &BTreeMap<String, String>| all.values().filter(|used| **used == subject(2)).count();
    let all = outputs(&world, 200).await;
    assert!((30..=90).contains(&share(&all)), "{} of 200", share(&all));
    live.stop().await;
    let live = folder.start(&world, false).await;
    assert!(live.status.report().handlers["h"].trial.is_some(), "it is still on trial");
    for number in 200..400 {
        world.publish("in.x", &[("Nats-Msg-Id", &number.to_string())], number.to_string()).await;
    }
    let all = outputs(&world, 400).await;
    assert!((60..=180).contains(&share(&all)), "{} of 400", share(&all));
    live.stop().await;
}

/// Of a canary that fails, only its share of the events suffers.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_is_gone_back_from() {
    let manifest = manifest("guard = '60s', canary = 0.5, min_events = 5");
    let (world, folder) = scene(&manifest, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    folder.put("plugins/h.wasm", version(FAILING));
    live.reloaded().await;
    publish_all(&world, "a", 40).await;
    live.runs("h", &version(&subject(1))).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let dead = world.messages("TIDEMILL_DEADLETTER").await.len();
    assert!((5..=35).contains(&dead), "{dead} dead letters");
    assert_eq!(outputs(&world, 40 - dead as u64).await.len(), 40 - dead);
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_versions_are_gone_back_to_by_hand() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    let alone = live.roll_back("h", None).await;
    assert!(!alone.ok && alone.problems[0].contains("no version of h is kept but the one that runs"), "{alone:?}");
    assert!(live.status.report().instance.troubles.is_empty(), "nothing is wrong with the files");
    for number in 2..=3 {
        folder.put("plugins/h.wasm", version(&subject(number)));
        live.reloaded().await;
    }
    assert!(live.roll_back("h", None).await.ok);
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(2));
    let first = tidemill::invoker::wasm::digest(&version(&subject(1)));
    assert!(live.roll_back("h", Some(&first[..10])).await.ok);
    publish(&world, "b").await;
    assert_eq!(outputs(&world, 2).await["b"], subject(1));
    for (handler, to, why) in [
        ("other", None, "there is no handler \"other\"; the handlers are h"),
        ("h", Some("zz"), "no version of h that begins with \"zz\" is kept"),
        ("h", Some(first.as_str()), "runs already"),
    ] {
        let report = live.roll_back(handler, to).await;
        assert!(!report.ok && report.problems[0].contains(why), "{report:?}");
    }
    // That holds until another file is put into the folder.
    live.stop().await;
    let live = folder.start(&world, false).await;
    live.runs("h", &version(&subject(1))).await;
    folder.put("plugins/h.wasm", version(&subject(4)));
    live.reloaded().await;
    live.runs("h", &version(&subject(4))).await;
    live.stop().await;
}
