//! Reloads while events flow.

use super::*;

/// How many events there are, and how many swaps while they flow.
const EVENTS: usize = 20_000;
const SWAPS: usize = 100;

/// What goes wrong between two swaps, in turn.
async fn mischief(folder: &Folder, live: &Live, number: usize, good: &[u8]) {
    match number % 4 {
        0 => folder.put("plugins/h.wasm", "garbage"),
        1 => fs::write(folder.path("plugins/h.wasm"), &good[..good.len() * 2 / 3]).expect("half written"),
        2 => folder.put("tidemill.toml", "[handler.h]\nsubject = 'in.>\n"),
        _ => folder.put("tidemill.toml", HANDLER.replace("'in.>'", "'nowhere.>'")),
    }
    let report = live.reload().await;
    assert!(!report.ok, "{report:?}");
    folder.put("tidemill.toml", HANDLER);
}

/// Events that are published after a swap has ended must not be handled by what ran before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_lose_repeat_and_fail_no_event() {
    let (world, folder) = scene(HANDLER, &version(&subject(0))).await;
    let live = folder.start(&world, false).await;
    let (published, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let feed = {
        let (context, published, is_over) = (world.context.clone(), Arc::clone(&published), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut number = 0;
            while number < EVENTS || !is_over.load(Ordering::SeqCst) {
                let mut confirmations = Vec::new();
                for _ in 0..50 {
                    confirmations.push(context.publish("in.x", number.to_string().into()).await.expect("sent"));
                    number += 1;
                }
                for confirmation in confirmations {
                    confirmation.await.expect("confirmed");
                }
                published.store(number, Ordering::SeqCst);
            }
            number
        })
    };
    // How many events there were when a version had taken over.
    let mut since = vec![0];
    for number in 1..=SWAPS {
        let good = version(&subject(number));
        mischief(&folder, &live, number, &good).await;
        folder.put("plugins/h.wasm", &good);
        let report = live.reloaded().await;
        assert_eq!(report.applied.swapped, ["h"], "{report:?}");
        // Those that are under way to the server may still be stored as if they had been there before.
        since.push(published.load(Ordering::SeqCst) + 50);
        // Some events for each version.
        let goal = published.load(Ordering::SeqCst) + 100;
        eventually("more events", || async { (published.load(Ordering::SeqCst) >= goal).then_some(()) }).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let count = feed.await.expect("published");
    world.wait_until_settled("IN", "tidemill-h").await;
    let handled = outputs(&world, count as u64).await;
    assert_eq!(handled.len(), count, "no event lost or handled twice");
    for (event, subject) in &handled {
        let (event, version): (usize, usize) =
            (event.parse().expect("a number"), subject.trim_start_matches("out.").parse().expect("a number"));
        let due = since.iter().rposition(|first| *first <= event).unwrap_or(0);
        assert!(version >= due, "event {event} came after swap {due}, and version {version} handled it");
    }
    let counts = &live.status.report().handlers["h"].counts;
    assert_eq!((counts.retried, counts.dead_lettered, counts.released), (0, 0, 0), "no event failed");
    let used: std::collections::BTreeSet<_> = handled.values().collect();
    assert!(used.len() > SWAPS / 2, "only {} versions were used", used.len());
    live.stop().await;
}

/// The handler is drained and started again each time.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_a_handler_under_load_lose_repeat_and_fail_no_event() {
    let (world, folder) = scene(HANDLER, &version(&subject(1))).await;
    let live = folder.start(&world, false).await;
    let publishing = {
        let context = world.context.clone();
        tokio::spawn(async move {
            for number in 0..5_000 {
                let sent = context.publish("in.x", number.to_string().into()).await.expect("sent");
                if number % 50 == 0 {
                    sent.await.expect("confirmed");
                }
            }
        })
    };
    for number in 1..=10 {
        folder.put(
            "tidemill.toml",
            HANDLER.replace("[handler.h]", &format!("[handler.h]\nconcurrency = {}", number + 3)),
        );
        assert_eq!(live.reloaded().await.applied.restarted, ["h"]);
    }
    publishing.await.expect("published");
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(outputs(&world, 5_000).await.len(), 5_000);
    let counts = &live.status.report().handlers["h"].counts;
    assert_eq!((counts.retried, counts.dead_lettered), (0, 0));
    live.stop().await;
}
