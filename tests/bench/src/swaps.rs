//! A handler whose component is replaced all the time, beside one that is left alone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::interval;

use crate::load::Latency;
use crate::measure::{Load, Pace, World, generate};
use crate::stats::Spread;
use crate::subject::{Running, Tidemill, guest, marked};
use crate::work::Work;

/// How often another component is put in place.
const EVERY: Duration = Duration::from_millis(250);
/// How many events are in flight.
const IN_FLIGHT: u64 = 64;

/// What swaps cost.
#[derive(Debug, Serialize)]
pub(crate) struct Swaps {
    /// How many there were in each round.
    pub(crate) count: Spread,
    /// How long one took, from the request to the answer, in milliseconds.
    pub(crate) took_ms: Spread,
    pub(crate) alone: Tail,
    pub(crate) swapped: Tail,
    /// 99 % of the events while components are swapped, as a multiple of alone, in each pair.
    pub(crate) p99: Spread,
}

/// How long events take, in microseconds; the longest contains any pause of intake.
#[derive(Debug, Serialize)]
pub(crate) struct Tail {
    pub(crate) p99_us: Spread,
    pub(crate) longest_us: Spread,
    pub(crate) rate: Spread,
}

/// One measurement: latency, and how long each swap took.
type One = (Latency, Vec<f64>);

/// Measures the handler alone and while its component is swapped, in turn.
pub(crate) async fn measure(base: &Path, events: u64, rounds: u32) -> Result<Swaps> {
    let (mut alone, mut swapped) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(one(base, events, false).await?);
        swapped.push(one(base, events, true).await?);
    }
    #[allow(clippy::cast_precision_loss, reason = "there are few")]
    let count = Spread::of(swapped.iter().map(|(_, took)| took.len() as f64));
    Ok(Swaps {
        count,
        took_ms: Spread::of(swapped.iter().flat_map(|(_, took)| took.iter().copied())),
        p99: Spread::of(swapped.iter().zip(&alone).map(|(swapped, alone)| swapped.0.p99_us / alone.0.p99_us)),
        alone: tail(&alone),
        swapped: tail(&swapped),
    })
}

fn tail(all: &[One]) -> Tail {
    let of = |what: fn(&Latency) -> f64| Spread::of(all.iter().map(|(latency, _)| what(latency)));
    Tail {
        p99_us: of(|latency| latency.p99_us),
        longest_us: of(|latency| latency.longest_us),
        rate: of(|latency| latency.rate),
    }
}

async fn one(base: &Path, events: u64, with_swaps: bool) -> Result<One> {
    let world = World::new(base).await?;
    let mut running = Tidemill::of("echo", "reload = { guard = '0s' }").start(world.url(), world.folder.path())?;
    running.ready().await?;
    let (done, over) = oneshot::channel();
    let swaps = async { if with_swaps { swap(&running, world.folder.path(), over).await } else { Ok(Vec::new()) } };
    let load = async {
        let latency = generate(&world, &Load::of(Work::Echo, events), Pace::InFlight(IN_FLIGHT)).await;
        // Nobody listens where nothing is swapped.
        let _ = done.send(());
        latency
    };
    let (latency, took) = tokio::join!(load, swaps);
    let measured = (latency?, took?);
    running.process.check()?;
    running.process.kill().await;
    world.end().await;
    Ok(measured)
}

/// Puts two versions in place in turn until it is over, and tells how long each swap took, in milliseconds.
async fn swap(running: &Running, folder: &Path, mut over: oneshot::Receiver<()>) -> Result<Vec<f64>> {
    let component = guest("echo")?;
    let (file, new) = (folder.join("plugins/echo.wasm"), folder.join("plugins/echo.new"));
    let mut took = Vec::new();
    let mut tick = interval(EVERY);
    for number in 1.. {
        tokio::select! {
            _ = &mut over => break,
            _ = tick.tick() => {}
        }
        std::fs::write(&new, marked(&component, number % 2))?;
        std::fs::rename(&new, &file)?;
        let begun = Instant::now();
        let answer = running.post("/api/v1/reload").await?;
        // The watcher may have been faster.
        if !answer.contains("\"ok\":true") {
            bail!("the swap did not work: {answer}");
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}
