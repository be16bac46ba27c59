//! A cluster of three servers that are restarted one after the other under load, first by SIGTERM and then by SIGKILL, so
//! that each instance loses the server that it is connected to. No process of tidemill ends, so no attempt is lost unseen.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use tokio::time::sleep;

use super::cluster::mend;
use super::house::{Deployment, Handler};
use super::script::{Fate, Role, Script};
use super::stage::Stage;
use super::{Options, Outcome};
use crate::chance::Chance;
use crate::progress::POLL_INTERVAL;

/// How many servers there are.
const NODES: usize = 3;
/// How many restarts there are: of each server by SIGTERM and by SIGKILL.
const RESTARTS: usize = 2 * NODES;
/// How many events there are in the short form.
const EVENTS: u64 = 1800;
/// How many keys there are where there is an order.
const KEYS: u32 = 24;
/// So many attempts begin before a server is ended, and before it is started again.
const ATTEMPTS_BETWEEN: usize = 15;
/// How long to wait for that.
const BETWEEN_MAX: Duration = Duration::from_secs(5);

/// The handlers: name, attempts, policy.
const HANDLERS: [(&str, u32, &str); 5] = [
    ("once", 1, ""),
    ("parts", 1, r#"order = { by = "key", key = "subject:3", partitions = 4 }"#),
    ("queues", 1, r#"order = { by = "key", key = "json:/key", form = "queues" }"#),
    ("known", 2, r#"dedup = { key = "json:/event", claim = true }"#),
    ("flaky", 4, "retry.initial = \"200ms\"\nretry.in_memory = \"300ms\""),
];

fn deployment() -> Deployment {
    let handler = |&(name, attempts_max, more): &(&'static str, u32, &'static str)| Handler {
        name,
        stream: "IN".to_owned(),
        subject: format!("in.{name}.*"),
        attempts_max,
        concurrency: 4,
        claims: name == "known",
        more,
    };
    Deployment { name: "tidemill", handlers: HANDLERS.iter().map(handler).collect(), instances: 2, ack_wait_s: 4 }
}

fn script(seed: u64, events: u64) -> Script {
    let mut script = Script::default();
    for number in 0..events {
        let mut chance = Chance::new(seed, 6, number);
        let name = HANDLERS[chance.below(5) as usize].0;
        let failures = if name == "flaky" { 1 + chance.below(2) } else { 0 };
        // Now and then an event takes so long that others wait behind it while a server goes away.
        let pace_ms = if chance.percent(10) { 400 + chance.below(600) } else { 10 + chance.below(40) };
        let fate = Fate { role: Role::Good, failures, pace: Duration::from_millis(pace_ms.into()) };
        let key = format!("k{}", chance.below(KEYS));
        script.add(&[format!("tidemill/{name}")], &format!("in.{name}.{key}"), &format!("e-{number}"), &key, fate);
    }
    script
}

/// Runs it.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let script = script(options.seed, options.events.unwrap_or(EVENTS));
    let streams: [(&str, &[&str]); 2] = [("IN", &["in.>"]), ("OUT", &["out.>"])];
    let mut stage = Stage::build(folder, NODES, &streams, vec![deployment()], script).await?;
    let names: Vec<String> = stage.context.stream_names().try_collect().await.context("cannot list the streams")?;
    let first = Chance::new(options.seed, 7, 0).below(3) as usize;
    let messages = stage.script.messages.clone();
    let mut publishing = Vec::new();
    for (restart, part) in messages.chunks(messages.len().div_ceil(RESTARTS).max(1)).enumerate() {
        publishing.push(stage.publish(part.to_vec()));
        work_goes_on(&mut stage).await?;
        let (node, is_crash) = ((first + restart) % NODES, restart >= NODES);
        stage.cluster.end(node, is_crash).await;
        work_goes_on(&mut stage).await?;
        stage.cluster.start_again(node).await?;
        mend(&stage.context, &names, NODES).await?;
    }
    for part in publishing {
        part.await?;
    }
    stage.settle().await;
    stage.finish().await
}

/// Waits until some more attempts have begun; not for long, since there may be none left.
async fn work_goes_on(stage: &mut Stage) -> Result<()> {
    let (start, begun) = (Instant::now(), stage.witness.count());
    while stage.witness.count() < begun + ATTEMPTS_BETWEEN && start.elapsed() < BETWEEN_MAX {
        stage.houses[0].revive()?;
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::house::parsed;
    use super::*;

    #[test]
    fn some_handlers_attempt_an_event_once_only_and_all_have_enough_to_do() {
        let manifest = parsed(&deployment());
        let once = manifest.handlers.values().filter(|handler| handler.retry.max_attempts == 1).count();
        assert_eq!(once, 3);
        let script = script(1, EVENTS);
        assert!(script.places.values().all(|place| place.events.len() > 200));
        assert_eq!(script.places.len(), HANDLERS.len());
    }

    #[test]
    fn no_event_fails_more_often_than_it_is_attempted() {
        let script = script(2, EVENTS);
        for (name, attempts_max, _) in HANDLERS {
            let events = &script.places[&format!("tidemill/{name}")].events;
            assert!(events.values().all(|fate| fate.failures < attempts_max));
        }
    }
}
