//! Three deployments side by side in one account, with the same names of handlers and another prefix each: some of their
//! handlers share one stream and subject, the others have streams of their own; all are killed now and then.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::house::{Deployment, Handler};
use super::script::{Fate, Role, Script};
use super::stage::Stage;
use super::{Options, Outcome};
use crate::chance::Chance;

/// Their names, which are their prefixes.
const NAMES: [&str; 3] = ["blue", "green", "tidemill"];
/// How many events there are in the short form, each of a shared handler counted once.
const EVENTS: u64 = 900;
/// How long an attempt takes.
const PACE: Duration = Duration::from_millis(10);
/// How often each deployment is killed.
const KILLS: u64 = 2;
/// How many keys there are where there is an order.
const KEYS: u32 = 20;

/// The handlers that all three run on the same stream: their names, which are their subjects, and their policy.
const SHARED: [(&str, &str); 3] = [
    ("shared", "retry.initial = \"100ms\"\nretry.in_memory = \"0s\""),
    ("known", "dedup = { key = \"json:/event\" }\nretry.initial = \"50ms\"\nretry.in_memory = \"150ms\""),
    ("sorted", "order = { by = \"key\", key = \"subject:3\", partitions = 4 }\nretry.initial = \"20ms\""),
];
/// The handler that each runs on a stream of its own.
const OWN: (&str, &str) = ("own", "retry.initial = \"100ms\"\nretry.in_memory = \"0s\"");

fn deployment(name: &'static str) -> Deployment {
    let handler = |handler: &'static str, more: &'static str, stream: String, subject: String| Handler {
        name: handler,
        stream,
        subject,
        attempts_max: 4,
        concurrency: 4,
        claims: false,
        more,
    };
    let shared = SHARED.iter().map(|&(shared, more)| handler(shared, more, "IN".into(), format!("in.{shared}.*")));
    let own = handler(OWN.0, OWN.1, format!("IN_{}", name.to_uppercase()), format!("{name}.own.*"));
    Deployment { name, handlers: shared.chain([own]).collect(), instances: 1, ack_wait_s: 3 }
}

fn script(seed: u64, events: u64) -> Script {
    let mut script = Script::default();
    for number in 0..events {
        let mut chance = Chance::new(seed, 4, number);
        let role = if chance.percent(10) { Role::Rejected } else { Role::Good };
        let failures = if chance.percent(30) { 1 + chance.below(2) } else { 0 };
        let (fate, key) = (Fate { role, failures, pace: PACE }, format!("k{}", chance.below(KEYS)));
        let event = format!("e-{number}");
        match chance.below(4) {
            3 => {
                for name in NAMES {
                    script.add(&[format!("{name}/own")], &format!("{name}.own.{key}"), &event, &key, fate);
                }
            }
            nth => {
                let handler = SHARED[nth as usize].0;
                let places = NAMES.map(|name| format!("{name}/{handler}"));
                script.add(&places, &format!("in.{handler}.{key}"), &event, &key, fate);
            }
        }
    }
    script
}

/// Runs it.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let script = script(options.seed, options.events.unwrap_or(EVENTS));
    // The shared handlers store their outputs in one stream, each deployment on subjects of its own: equal ids would show.
    let streams: [(&str, &[&str]); 8] = [
        ("IN", &["in.>"]),
        ("IN_BLUE", &["blue.own.*"]),
        ("IN_GREEN", &["green.own.*"]),
        ("IN_TIDEMILL", &["tidemill.own.*"]),
        ("OUT", &["out.*.shared", "out.*.known", "out.*.sorted"]),
        ("OUT_BLUE", &["out.blue.own"]),
        ("OUT_GREEN", &["out.green.own"]),
        ("OUT_TIDEMILL", &["out.tidemill.own"]),
    ];
    let mut stage = Stage::build(folder, 1, &streams, NAMES.map(deployment).into(), script).await?;
    let publishing = stage.publish(stage.script.messages.clone());
    let attempts = usize::try_from(stage.script.results()).unwrap_or(usize::MAX);
    let mut chance = Chance::new(options.seed, 5, 0);
    for nth in 1..=KILLS * NAMES.len() as u64 {
        // Spread over the first two thirds of the attempts.
        let begun = attempts * usize::try_from(nth)? * 2 / (3 * NAMES.len() * usize::try_from(KILLS)?);
        stage.wait_for("work goes on", |stage| stage.witness.count() >= begun).await;
        let victim = (usize::try_from(nth)? + chance.below(2) as usize) % NAMES.len();
        stage.houses[victim].kill(&stage.witness, 0, &[]).await?;
    }
    publishing.await?;
    stage.settle().await;
    stage.finish().await
}

#[cfg(test)]
mod tests {
    use super::super::house::parsed;
    use super::*;

    #[test]
    fn the_deployments_have_the_same_handlers_and_other_prefixes() {
        let manifests = NAMES.map(|name| parsed(&deployment(name)));
        let handlers = manifests.each_ref().map(|manifest| manifest.handlers.keys().cloned().collect::<Vec<_>>());
        assert!(handlers.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(manifests.map(|manifest| manifest.nats.prefix), NAMES);
    }

    #[test]
    fn each_deployment_has_the_same_to_do() {
        let script = script(3, 400);
        for (handler, _) in SHARED.iter().chain([&OWN]) {
            let of = |name: &str| &script.places[&format!("{name}/{handler}")].events;
            assert!(NAMES.iter().all(|name| of(name) == of(NAMES[0]) && of(name).len() > 50));
        }
    }
}
