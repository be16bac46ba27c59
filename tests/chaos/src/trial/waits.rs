//! Events that are kept waiting while processes are killed and stopped: by a breaker that is open, by a rate limit, by
//! somebody else's claim, by a key that is held up. What has not begun must not be charged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidemill::broker::nats::streams::dead_letter_stream;
use tokio::time::sleep;

use super::house::{Deployment, Handler};
use super::script::{Fate, Role, Script, message};
use super::stage::Stage;
use super::{Options, Outcome};
use crate::chance::Chance;
use crate::plan::Message;
use crate::progress::{self, POLL_INTERVAL};

/// How many events wait for the rate limit, in the short form, and a quarter as many at the breaker.
const EVENTS: u64 = 500;
/// How many keys are held up, of each form of order.
const KEYS: u32 = 4;
/// How many events wait behind each.
const BEHIND: u32 = 10;
/// How many events are claimed while copies of them wait: as many as run at once.
const CLAIMED: u32 = CONCURRENCY;
/// How many further events there are, so that the instance that claims has as much in hand as it takes.
const FILLERS: u32 = 12 * CONCURRENCY;
/// How many events a handler runs at once.
const CONCURRENCY: u32 = 4;
/// How often each instance of the gates is killed, and how often it is stopped.
const ROUNDS: usize = 3;
/// How long something may take to come about.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long to wait in vain for further attempts before the next blow.
const BETWEEN_MAX: Duration = Duration::from_secs(4);

/// The subject of the events that are claimed.
const FIRSTS: &str = "in.claimed.first";
/// That of the further events of their handler.
const FILLING: &str = "in.claimed.filler";
/// That of the events that the breaker holds.
const HELD: &str = "in.held.k";

/// The handlers that park keys.
const PARKING: [&str; 2] = ["queues", "parts"];

fn handler(name: &'static str, attempts_max: u32, more: &'static str) -> Handler {
    Handler {
        name,
        stream: "IN".to_owned(),
        subject: format!("in.{name}.*"),
        attempts_max,
        concurrency: CONCURRENCY,
        claims: name == "claimed",
        more,
    }
}

/// What keeps events waiting until somebody lets them go, or for their turn.
fn gates() -> Deployment {
    let handlers = vec![
        // It is opened by hand; a handler with a breaker of its own looks for that every second.
        handler("held", 1, "circuit_breaker = { failures = 1000 }"),
        handler("limited", 1, "rate_limit = { rate = \"15/s\", burst = 4 }"),
        handler("queues", 1, r#"order = { by = "key", key = "json:/key", form = "queues", on_failure = "park" }"#),
        handler("parts", 1, r#"order = { by = "key", key = "subject:3", partitions = 4, on_failure = "park" }"#),
    ];
    Deployment { name: "gates", handlers, instances: 2, ack_wait_s: 3 }
}

/// What keeps copies of an event waiting while one of them is run. The second instance is started later.
fn claims() -> Deployment {
    let handlers = vec![handler("claimed", 3, r#"dedup = { key = "json:/event", claim = true }"#)];
    Deployment { name: "claims", handlers, instances: 1, ack_wait_s: 8 }
}

fn script(seed: u64, events: u64) -> Script {
    let mut script = Script::default();
    let mut chance = Chance::new(seed, 8, 0);
    // What is held is run slowly until then, so that more of it is in hand.
    for (handler, count, pace_ms) in [("held", events / 4, 300), ("limited", events, 0)] {
        for number in 0..count {
            let fate = Fate { pace: Duration::from_millis(pace_ms + u64::from(chance.below(30))), ..Fate::GOOD };
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
    for number in 0..CLAIMED + FILLERS {
        let (role, subject) = if number < CLAIMED { (Role::Stuck, FIRSTS) } else { (Role::Good, FILLING) };
        script.add(&["claims/claimed".to_owned()], subject, &format!("e-{number}"), "", Fate { role, ..Fate::GOOD });
    }
    script
}

/// Runs it.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let script = script(options.seed, options.events.unwrap_or(EVENTS));
    let streams: [(&str, &[&str]); 2] = [("IN", &["in.>"]), ("OUT", &["out.>"])];
    let mut stage = Stage::build(folder, 1, &streams, vec![gates(), claims()], script).await?;
    let of = |subject: &str| {
        let all = stage.script.messages.iter().filter(|message| message.subject == subject);
        all.cloned().collect::<Vec<Message>>()
    };
    let (firsts, fillers, held) = (of(FIRSTS), of(FILLING), of(HELD));
    let is_later = |message: &&Message| [FIRSTS, FILLING, HELD].contains(&message.subject.as_str());
    let others = stage.script.messages.iter().filter(|message| !is_later(message)).cloned().collect();
    stage.publish(others).await?;
    stage.publish(firsts).await?;
    wait_until_claimed(&mut stage, fillers).await?;
    wait_for_claims(&mut stage).await?;
    wait_for_parked(&stage).await?;
    stage.publish(held).await?;
    open_breaker(&mut stage).await?;
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

/// Opens the breaker while both instances have events in hand that it keeps back from then on.
async fn open_breaker(stage: &mut Stage) -> Result<()> {
    let begun = 2 * CONCURRENCY as usize;
    stage.wait_for("events are run", |stage| stage.witness.count_of("gates/held") >= begun).await;
    stage.houses[0].command(&["breaker", "held", "open", "--for", "10m", "--reason", "chaos"]).await?;
    until("the breaker holds everywhere", async || stage.houses[0].is_held(&stage.witness, "held").await).await
}

/// Waits until the only instance has claimed events and has in hand besides what it takes.
async fn wait_until_claimed(stage: &mut Stage, fillers: Vec<Message>) -> Result<()> {
    let claimed = CLAIMED as usize;
    stage.wait_for("the events are claimed", |stage| stage.witness.count_of("claims/claimed") >= claimed).await;
    stage.publish(fillers).await?;
    until("the instance has in hand what it takes", async || {
        let deliveries = progress::deliveries(&stage.context, "IN", "claims-claimed").await;
        deliveries.is_some_and(|(given, pending)| given >= u64::from(2 * CLAIMED) && pending > 0)
    })
    .await
}

/// Stops and kills the instance in which copies wait for a claim, then the one that has it, of which the message is gone
/// by then. That one has as much in hand
/// as it takes, so the copies go to the other one, also when they come back.
async fn wait_for_claims(stage: &mut Stage) -> Result<()> {
    let port = stage.ports.pop().expect("there are ports to spare");
    stage.houses[1].add(port)?;
    stage.wait_until_ready().await?;
    let copies = (0..CLAIMED).map(|number| message("in.claimed.copy", &format!("e-{number}"), "", 2)).collect();
    stage.publish(copies).await?;
    for (nth, is_kill) in (1..).zip([false, false, true]) {
        let wanted = u64::from(CLAIMED + FILLERS + nth * CLAIMED);
        until("the copies wait for the claim", async || {
            let deliveries = progress::deliveries(&stage.context, "IN", "claims-claimed").await;
            let in_hand = stage.houses[1].in_flight_of(1).await;
            let are_there = deliveries.is_some_and(|(given, _)| given >= wanted) && in_hand >= u64::from(CLAIMED);
            // On a machine that is too busy, what has claimed them may take too long and end before.
            are_there || stage.witness.doomed("claims").is_empty()
        })
        .await?;
        if is_kill {
            stage.houses[1].kill(&stage.witness, 1, &["claimed"]).await?;
        } else {
            stage.houses[1].restart(1).await?;
        }
        stage.wait_until_ready().await?;
    }
    // Nobody but the copies can carry the events on.
    stage.context.get_stream("IN").await?.purge().filter(FIRSTS).await.context("cannot purge")?;
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
