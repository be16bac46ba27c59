//! How soon tidemill is ready, and how much memory it takes.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::measure::{Load, World};
use crate::process::resident;
use crate::stats::Spread;
use crate::subject::Tidemill;
use crate::work::Work;

/// How soon tidemill is ready with so many components, in milliseconds, and what it holds then.
#[derive(Debug, Serialize)]
pub(crate) struct Start {
    pub(crate) components: u64,
    /// With nothing compiled before.
    pub(crate) cold_ms: f64,
    /// With everything compiled before; streams and consumers are made.
    pub(crate) warm_ms: Spread,
    /// The same where streams and consumers are there already.
    pub(crate) again_ms: Spread,
    /// Memory with nothing to do, in MiB.
    pub(crate) idle_mib: f64,
}

/// Memory after so many events, in MiB.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) events: u64,
    pub(crate) mib: f64,
}

#[allow(clippy::cast_precision_loss, reason = "less memory than a float can count")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Starts tidemill with so many components: first with an empty cache, then with a full one.
pub(crate) async fn start(base: &Path, components: u64, rounds: u32) -> Result<Start> {
    let base = tempfile::TempDir::new_in(base)?;
    let tidemill = Tidemill { handlers: components, in_flight: 16, distinct: true, ..Tidemill::of("echo", "") };
    let (mut cold_ms, mut idle_mib) = (0.0, 0.0);
    let (mut warm, mut again) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let world = World::new(base.path()).await?;
        let (first, idle) = one(&world, &tidemill).await?;
        if round == 0 {
            (cold_ms, idle_mib) = (first, idle);
        } else {
            warm.push(first);
            let (second, idle) = one(&world, &tidemill).await?;
            again.push(second);
            idle_mib = idle;
        }
        world.end().await;
    }
    Ok(Start { components, cold_ms, warm_ms: Spread::of(warm), again_ms: Spread::of(again), idle_mib })
}

/// Starts once, and tells how long it took and what it holds.
async fn one(world: &World, tidemill: &Tidemill) -> Result<(f64, f64)> {
    let mut running = tidemill.start(world.url(), world.folder.path())?;
    let took = running.ready().await?;
    let held = resident(running.process.pid()?)?;
    running.process.kill().await;
    Ok((took.as_secs_f64() * 1e3, mib(held)))
}

/// What tidemill holds after so many events.
pub(crate) async fn memory(base: &Path, counts: &[u64]) -> Result<Vec<Held>> {
    let world = World::new(base).await?;
    let tidemill = Tidemill::of("echo", "");
    let mut running = tidemill.start(world.url(), world.folder.path())?;
    running.ready().await?;
    let mut all = vec![Held { events: 0, mib: mib(resident(running.process.pid()?)?) }];
    let mut published = 0;
    for &events in counts {
        world.fill(&Load::of(Work::Echo, events - published)).await?;
        published = events;
        world.until(events, &mut running.process).await?;
        all.push(Held { events, mib: mib(resident(running.process.pid()?)?) });
    }
    running.process.kill().await;
    world.end().await;
    Ok(all)
}
