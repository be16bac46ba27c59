//! Throughput and latency over the number of events in flight, and over the size of their payloads.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::measure::{Load, Pace, latency};
use crate::stats::Spread;
use crate::subject::{Subject, Tidemill};
use crate::work::Work;

/// How many events are on their way.
const IN_FLIGHT: [u64; 5] = [1, 4, 16, 64, 256];
/// How long their payloads are, in bytes.
const SIZES: [usize; 6] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// How many events are on their way while the size of payloads changes.
const IN_FLIGHT_OF_SIZES: u64 = 16;

/// One point of a curve, of both.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    /// Events in flight, or bytes of the payload.
    pub(crate) at: u64,
    pub(crate) baseline: Measured,
    pub(crate) tidemill: Measured,
}

/// Medians of a few rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) p99_us: f64,
}

/// Over the number of events in flight, small ones.
pub(crate) async fn over_concurrency(base: &Path, events: u64, rounds: u32) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for count in IN_FLIGHT {
        let load = Load::of(Work::Echo, (events * count / 64).clamp(events / 16, events));
        points.push(point(base, count, &load, count, rounds).await?);
    }
    Ok(points)
}

/// Over the size of payloads.
pub(crate) async fn over_size(base: &Path, events: u64, rounds: u32) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for size in SIZES {
        let events = (events * 1024 / size as u64).clamp(events / 64, events / 4);
        let load = Load { size, ..Load::of(Work::Echo, events) };
        points.push(point(base, size as u64, &load, IN_FLIGHT_OF_SIZES, rounds).await?);
    }
    Ok(points)
}

async fn point(base: &Path, at: u64, load: &Load, in_flight: u64, rounds: u32) -> Result<Point> {
    let baseline = Subject::hand_written(load.work);
    let tidemill = Subject::Tidemill(Tidemill::of("echo", "limits = { payload = '1MiB' }"));
    let (mut baselines, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        baselines.push(latency(base, &baseline, load, Pace::InFlight(in_flight)).await?);
        ours.push(latency(base, &tidemill, load, Pace::InFlight(in_flight)).await?);
    }
    let measured = |all: &[crate::load::Latency]| Measured {
        rate: Spread::of(all.iter().map(|one| one.rate)).median,
        p99_us: Spread::of(all.iter().map(|one| one.p99_us)).median,
    };
    Ok(Point { at, baseline: measured(&baselines), tidemill: measured(&ours) })
}
