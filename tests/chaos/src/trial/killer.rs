//! Events that kill their process at each attempt, beside hundreds of innocent ones for each kind of handler: its request
//! tells of the attempt, and then the process is killed from outside. All kinds of handlers at once, each a deployment of
//! its own, so that a kill cuts off events of its own handler only.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::time::sleep;

use super::house::{Deployment, Handler, House};
use super::script::{Fate, Role, Script};
use super::stage::{self, Stage};
use super::witness::Witness;
use super::{Options, Outcome};
use crate::chance::Chance;
use crate::progress::POLL_INTERVAL;

/// How many events there are in the short form.
const EVENTS: u64 = 5600;
/// How long an attempt takes for each that runs at once, so that there is work left until the last kill.
const PACE: Duration = Duration::from_millis(18);
/// How many keys there are where there is an order.
const KEYS: u32 = 40;

/// A kind of handler.
struct Kind {
    name: &'static str,
    attempts_max: u32,
    concurrency: u32,
    claims: bool,
    instances: usize,
    /// How many attempts of a killer fail before it kills, and of one in four of the innocent.
    failures: u32,
    /// How many killers there are.
    killers: u32,
    more: &'static str,
}

const PLAIN: Kind = Kind {
    name: "plain",
    attempts_max: 3,
    concurrency: 4,
    claims: false,
    instances: 2,
    failures: 0,
    killers: 2,
    more: "",
};

const KINDS: [Kind; 8] = [
    PLAIN,
    Kind { name: "once", attempts_max: 1, concurrency: 1, instances: 1, killers: 3, ..PLAIN },
    Kind { name: "dedup", instances: 1, more: r#"dedup = { key = "json:/event" }"#, ..PLAIN },
    Kind { name: "claim", claims: true, more: r#"dedup = { key = "json:/event", claim = true }"#, ..PLAIN },
    Kind {
        name: "parts",
        instances: 1,
        killers: 1,
        more: r#"order = { by = "key", key = "subject:3", partitions = 4 }"#,
        ..PLAIN
    },
    Kind { name: "queues", killers: 1, more: r#"order = { by = "key", key = "json:/key", form = "queues" }"#, ..PLAIN },
    Kind {
        name: "memory",
        attempts_max: 4,
        instances: 1,
        failures: 1,
        more: "retry.initial = \"50ms\"\nretry.in_memory = \"2s\"",
        ..PLAIN
    },
    Kind {
        name: "stream",
        attempts_max: 4,
        instances: 1,
        failures: 2,
        more: "retry.initial = \"200ms\"\nretry.in_memory = \"0s\"",
        ..PLAIN
    },
];

impl Kind {
    fn deployment(&self) -> Deployment {
        // Named after its kind, so that its ids are told from those of the others without the prefix.
        let handler = Handler {
            name: self.name,
            stream: "IN".to_owned(),
            subject: format!("in.{}.*", self.name),
            attempts_max: self.attempts_max,
            concurrency: self.concurrency,
            claims: self.claims,
            more: self.more,
        };
        Deployment { name: self.name, handlers: vec![handler], instances: self.instances, ack_wait_s: 3 }
    }

    /// Adds so many innocent events, and the killers among them: the first early, so that it is done with while there are
    /// still innocent ones.
    fn write(&self, script: &mut Script, seed: u64, events: u64) {
        let place = [format!("{0}/{0}", self.name)];
        let innocent = Fate { pace: PACE * self.concurrency, ..Fate::GOOD };
        let mut chance = Chance::new(seed, 3, script.places.len() as u64);
        let span = u32::try_from(events / 2).unwrap_or(u32::MAX) / self.killers;
        let killers: Vec<_> =
            (0..self.killers).map(|nth| u64::from(nth * span + chance.below(span / 2 + 1)) + 5).collect();
        for number in 0..events {
            let key = format!("k{}", chance.below(KEYS));
            let subject = format!("in.{}.{key}", self.name);
            let failures = if chance.percent(25) { self.failures } else { 0 };
            script.add(&place, &subject, &format!("e-{number}"), &key, Fate { failures, ..innocent });
            if killers.contains(&number) {
                let fate = Fate { role: Role::Killer, failures: self.failures, pace: Duration::ZERO };
                script.add(&place, &subject, &format!("killer-{number}"), &key, fate);
            }
        }
    }
}

/// Runs it.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let each = options.events.unwrap_or(EVENTS).div_ceil(KINDS.len() as u64).max(20);
    let mut script = Script::default();
    for kind in &KINDS {
        kind.write(&mut script, options.seed, each);
    }
    let deployments = KINDS.iter().map(Kind::deployment).collect();
    let streams: [(&str, &[&str]); 2] = [("IN", &["in.>"]), ("OUT", &["out.>"])];
    let mut stage = Stage::build(folder, 1, &streams, deployments, script).await?;
    let publishing = stage.publish(stage.script.messages.clone());
    let is_over = AtomicBool::new(false);
    let settled = async {
        let settled = stage::settle(&stage.context, &stage.witness, stage.script.results()).await;
        is_over.store(true, Ordering::Relaxed);
        settled
    };
    let killing = try_join_all(stage.houses.iter_mut().map(|house| strike(house, &stage.witness, &is_over)));
    let (settled, killed) = tokio::join!(settled, killing);
    killed?;
    stage.faults.extend(settled.err().map(|error| format!("{error:#}")));
    publishing.await?;
    stage.finish().await
}

/// Kills each process of a deployment in which a killer waits, until all is over.
async fn strike(house: &mut House, witness: &Witness, is_over: &AtomicBool) -> Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        house.revive()?;
        for process in witness.doomed(house.deployment.name) {
            if let Some(number) = house.number(&process) {
                house.kill(witness, number, &[]).await?;
            }
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::house::parsed;
    use super::*;

    #[test]
    fn each_kind_of_handler_is_what_it_is_called() {
        for kind in &KINDS {
            let manifest = parsed(&kind.deployment());
            let handler = &manifest.handlers[kind.name];
            assert_eq!(handler.retry.max_attempts, kind.attempts_max);
            assert_eq!(handler.dedup.as_ref().is_some_and(|dedup| dedup.claim), kind.claims, "{}", kind.name);
        }
    }

    #[test]
    fn every_kind_has_its_killers_among_the_innocent_whatever_the_seed() {
        for seed in 0..50 {
            for kind in &KINDS {
                for events in [20, 700] {
                    let mut script = Script::default();
                    kind.write(&mut script, seed, events);
                    let fates = || script.places.values().flat_map(|place| place.events.values());
                    let killers = fates().filter(|fate| fate.role == Role::Killer).count();
                    assert_eq!(killers, kind.killers as usize, "{} {events}", kind.name);
                    assert_eq!(script.results(), events + u64::from(kind.killers));
                }
            }
        }
    }
}
