//! Events that are kept waiting while processes are killed and stopped: by a breaker that is open, by a rate limit, by
//! somebody else's claim, by a key that is held up. What has not begun must not be charged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tidemill::broker::nats::streams::dead_letter_stream;
use tokio::time::sleep;

use super::house::{Deployment, Handler};
use super::script::{Fate, Role, Script, message};
use super::stage::Stage;
use super::{Options, Outcome};
use crate::chance::Chance;
use crate::progress::{self, POLL_INTERVAL};

/// How many events wait at the breaker, and how many for the rate limit, in the short form.
const EVENTS: u64 = 150;
/// How many keys are held up, of each form of order.
const KEYS: u32 = 4;
/// How many events wait behind each.
const BEHIND: u32 = 10;
/// How many events are claimed while copies of them wait.
const CLAIMED: u32 = 4;
/// How often each instance of the gates is killed, and how often it is stopped.
const ROUNDS: usize = 3;
/// How long something may take to come about.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long to wait in vain for further attempts before the next blow.
const BETWEEN_MAX: Duration = Duration::from_secs(4);

/// The handlers that park keys.
const PARKING: [&str; 2] = ["queues", "parts"];

fn handler(name: &'static str, attempts_max: u32, more: &'static str) -> Handler {
    Handler {
        name,
        stream: "IN".to_owned(),
        subject: format!("in.{name}.*"),
        attempts_max,
        concurrency: 4,
        claims: name == "claimed",
        more,
    }
}

/// What keeps events waiting until somebody lets them go, or for their turn.
fn gates() -> Deployment {
    let handlers = vec![
        // It is opened by hand; a handler with a breaker of its own looks for that every second.
        handler("held", 1, "circuit_breaker = { failures = 1000 }"),
        handler("limited", 1, "rate_limit = { rate = \"10/s\", burst = 4 }"),
        handler("queues", 1, r#"order = { by = "key", key = "json:/key", form = "queues", on_failure = "park" }"#),
        handler("parts", 1, r#"order = { by = "key", key = "subject:3", partitions = 4, on_failure = "park" }"#),
    ];
    Deployment { name: "gates", handlers, instances: 2, ack_wait_s: 3 }
}

/// What keeps copies of an event waiting while one of them is run. The second instance is started later.
fn claims() -> Deployment {
    let handlers = vec![handler("claimed", 3, r#"dedup = { key = "json:/event", claim = true }"#)];
    Deployment { name: "claims", handlers, instances: 1, ack_wait_s: 6 }
}

fn script(seed: u64, events: u64) -> Script {
    let mut script = Script::default();
    let mut chance = Chance::new(seed, 8, 0);
    for handler in ["held", "limited"] {
        for number in 0..events {
            let fate = Fate { pace: Duration::from_millis(chance.below(30).into()), ..Fate::GOOD };
            script.add(&[format!("gates/{handler}")], &format!("in.{handler}.k"), &format!("e-{number}"), "", fate);
        }
    }
    for handler in PARKING {
        for number in 0..KEYS * (1 + BEHIND) {
            let (nth, key) = (number / KEYS, format!("k{}", number % KEYS));
            let fate = Fate { role: if nth == 0 { Role::Mended } else { Role::Good }, ..Fate::GOOD };
            let subject = format!("in.{handler}.{key}");
            script.add(&[format!("gates/{handler}")], &subject, &format!("{key}-{nth}"), &key, fate);
        }
    }
    for number in 0..CLAIMED {
        let fate = Fate { role: Role::Stuck, ..Fate::GOOD };
        script.add(&["claims/claimed".to_owned()], "in.claimed.k", &format!("e-{number}"), "", fate);
    }
    script
}

/// Runs it.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let script = script(options.seed, options.events.unwrap_or(EVENTS));
    let streams: [(&str, &[&str]); 2] = [("IN", &["in.>"]), ("OUT", &["out.>"])];
    let mut stage = Stage::build(folder, 1, &streams, vec![gates(), claims()], script).await?;
    stage.houses[0].command(&["breaker", "held", "open", "--for", "10m", "--reason", "chaos"]).await?;
    let publishing = stage.publish(stage.script.messages.clone());
    publishing.await?;
    wait_for_claims(&mut stage).await?;
    wait_for_parked(&stage).await?;
    for round in 0..ROUNDS {
        for instance in 0..2 {
            // Only what is limited can begin.
            stage.houses[0].kill(&stage.witness, instance, &["held", "queues", "parts"]).await?;
            work_goes_on(&mut stage).await?;
            if round == 1 {
                stage.houses[0].restart(instance).await?;
            }
        }
        stage.wait_until_ready().await?;
    }
    stage.houses[0].command(&["breaker", "held", "close"]).await?;
    for handler in PARKING {
        stage.houses[0].command(&["dlq", "replay", "--handler", handler, "--all"]).await?;
    }
    stage.settle().await;
    stage.finish().await
}

/// Stops and kills the instance in which copies wait for a claim, then the one that has it.
async fn wait_for_claims(stage: &mut Stage) -> Result<()> {
    let claimed = usize::try_from(CLAIMED)?;
    stage.wait_for("the events are claimed", |stage| stage.witness.count_of("claims/claimed") >= claimed).await;
    let port = stage.ports.pop().expect("there are ports to spare");
    stage.houses[1].add(port)?;
    stage.wait_until_ready().await?;
    let copies = (0..CLAIMED).map(|number| message("in.claimed.k", &format!("e-{number}"), "", 2)).collect();
    stage.publish(copies).await?;
    for is_kill in [false, false, true] {
        until("the copies are delivered", async || progress::in_hand(&stage.context, "IN", "claims-claimed").await >= 2 * claimed)
            .await?;
        if is_kill {
            stage.houses[1].kill(&stage.witness, 1, &["claimed"]).await?;
        } else {
            stage.houses[1].restart(1).await?;
        }
        stage.wait_until_ready().await?;
    }
    stage.houses[1].kill(&stage.witness, 0, &[]).await
}

/// Waits until every first event of a key is in the dead letters.
async fn wait_for_parked(stage: &Stage) -> Result<()> {
    let parked = u64::from(KEYS) * PARKING.len() as u64;
    until("the keys are held up", async || {
        let stream = stage.context.get_stream(dead_letter_stream("gates")).await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages >= parked)
    })
    .await
}

/// Waits until some more attempts have begun and what a killed instance had is delivered again; not for long, since there
/// may be none left.
async fn work_goes_on(stage: &mut Stage) -> Result<()> {
    let (start, begun) = (Instant::now(), stage.witness.count());
    while stage.witness.count() < begun + 30 && start.elapsed() < BETWEEN_MAX {
        stage.houses[0].revive()?;
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so().await {
        if start.elapsed() > WAIT_MAX {
            bail!("after {WAIT_MAX:?} it has not come about that {what}");
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemill_policy::manifest::Handler as Policy;

    use super::super::house::parsed;
    use super::*;

    #[test]
    fn each_handler_keeps_its_events_waiting_in_its_own_way() {
        let gates = parsed(&gates());
        let count = |is: fn(&Policy) -> bool| gates.handlers.values().filter(|&handler| is(handler)).count();
        assert_eq!(count(|handler| handler.circuit_breaker.is_some()), 1);
        assert_eq!(count(|handler| handler.rate_limit.is_some()), 1);
        assert_eq!(count(Policy::parks), 2);
        assert!(gates.handlers.values().all(|handler| handler.retry.max_attempts == 1));
        assert!(parsed(&claims()).handlers["claimed"].dedup.as_ref().is_some_and(|dedup| dedup.claim));
    }

    #[test]
    fn one_event_of_each_key_is_rejected_and_comes_first() {
        let script = script(1, 10);
        for handler in PARKING {
            let events = &script.places[&format!("gates/{handler}")].events;
            let mended = events.values().filter(|fate| fate.role == Role::Mended).count();
            assert_eq!((mended, events.len()), (KEYS as usize, (KEYS * (1 + BEHIND)) as usize));
        }
    }
}
