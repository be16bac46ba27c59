//! A good handler alone, and beside bad neighbours: one that loops for ever in every slot, and one that eats memory.

use std::path::Path;

use anyhow::Result;
use async_nats::jetstream::stream::{Config, StorageType};
use serde::Serialize;

use crate::load::Latency;
use crate::measure::{Load, Pace, World, generate};
use crate::stats::Spread;
use crate::subject::{Tidemill, guest};
use crate::work::Work;

/// One event of the good handler each so many microseconds, where its latency is measured.
const EVERY_US: u64 = 2_000;
/// How many events of the good handler are in flight, where its throughput is measured.
const IN_FLIGHT: u64 = 64;
/// How many events wait for each of the neighbours: more than they get through.
const BAD: usize = 5_000;

/// The neighbours: their attempts are cut off after a second, and there is always a next one.
const NEIGHBOURS: &str = "
[handler.looping]
component = 'unruly.wasm'
subject = 'loop.>'
stream = 'BAD'
concurrency = 64
limits = { timeout = '1s', fuel = 1_000_000_000_000 }
retry = { max_attempts = 1 }
outage_brake = false
[handler.eating]
component = 'unruly.wasm'
subject = 'eat.>'
stream = 'BAD'
concurrency = 16
limits = { timeout = '1s', fuel = 1_000_000_000_000, memory = '256MiB' }
retry = { max_attempts = 1 }
outage_brake = false
";

/// What became of the good handler.
#[derive(Debug, Serialize)]
pub(crate) struct Fairness {
    pub(crate) alone: Good,
    pub(crate) beside: Good,
    /// 99 % of the events beside the others, as a multiple of alone, in each pair.
    pub(crate) p99: Spread,
    /// Throughput beside the others, as a share of alone, in each pair; a third would be fair.
    pub(crate) throughput: Spread,
}

#[derive(Debug, Serialize)]
pub(crate) struct Good {
    pub(crate) p50_us: Spread,
    pub(crate) p99_us: Spread,
    pub(crate) rate: Spread,
}

/// Measures the good handler alone and beside the others, in turn.
pub(crate) async fn measure(base: &Path, events: u64, rounds: u32) -> Result<Fairness> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(one(base, events, false).await?);
        beside.push(one(base, events, true).await?);
    }
    let pairs = || beside.iter().zip(&alone);
    Ok(Fairness {
        p99: Spread::of(pairs().map(|(beside, alone)| beside.0.p99_us / alone.0.p99_us)),
        throughput: Spread::of(pairs().map(|(beside, alone)| beside.1.rate / alone.1.rate)),
        alone: good(&alone),
        beside: good(&beside),
    })
}

fn good(all: &[(Latency, Latency)]) -> Good {
    Good {
        p50_us: Spread::of(all.iter().map(|(paced, _)| paced.p50_us)),
        p99_us: Spread::of(all.iter().map(|(paced, _)| paced.p99_us)),
        rate: Spread::of(all.iter().map(|(_, flat_out)| flat_out.rate)),
    }
}

/// The good handler at a constant rate, then flat out.
async fn one(base: &Path, events: u64, with_neighbours: bool) -> Result<(Latency, Latency)> {
    let world = World::new(base).await?;
    let subjects = vec!["loop.>".to_owned(), "eat.>".to_owned()];
    let bad = Config { name: "BAD".to_owned(), subjects, storage: StorageType::File, ..Config::default() };
    world.context.create_stream(bad).await?;
    if with_neighbours {
        for (subject, payload) in [("loop.a", "loop"), ("eat.a", "alloc")] {
            for _ in 0..BAD {
                world.context.publish(subject, payload.into()).await?.await?;
            }
        }
    }
    std::fs::create_dir_all(world.folder.path().join("plugins"))?;
    std::fs::write(world.folder.path().join("plugins/unruly.wasm"), guest("unruly")?)?;
    let tidemill = Tidemill { tables: NEIGHBOURS.to_owned(), ..Tidemill::of("echo", "") };
    let mut running = tidemill.start(world.url(), world.folder.path())?;
    running.ready().await?;
    let paced = generate(&world, &Load::of(Work::Echo, events / 20), Pace::EveryMicros(EVERY_US)).await?;
    let flat_out = generate(&world, &Load::of(Work::Echo, events), Pace::InFlight(IN_FLIGHT)).await?;
    running.process.check()?;
    running.process.kill().await;
    world.end().await;
    Ok((paced, flat_out))
}
