//! The load generator, in a process of its own on one core: fills a stream beforehand, or keeps a number of events
//! on their way and tells how long each takes until its output is there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use clap::Args;
use futures::StreamExt;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::work::Work;

/// How many confirmations are waited for at once while a stream is filled.
const UNCONFIRMED_MAX: usize = 1_000;
/// How long an output may take before the measurement is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What the load generator is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) url: String,
    #[arg(long)]
    pub(crate) work: Work,
    /// How many events there are
    #[arg(long)]
    pub(crate) events: u64,
    /// How long each is, in bytes
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
    /// One in so many fails once; none where this is 0
    #[arg(long, default_value_t = 0)]
    pub(crate) fails_each: u64,
    /// How many subjects they are spread over
    #[arg(long, default_value_t = 1)]
    pub(crate) subjects: u64,
    /// Keep so many on their way, and measure; without, the stream is filled
    #[arg(long)]
    pub(crate) in_flight: Option<u64>,
    /// With `in-flight`: begin each so many microseconds after the one before, whatever became of that
    #[arg(long)]
    pub(crate) every_us: Option<u64>,
}

/// How long events took until their outputs were there.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Events a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) longest_us: f64,
}

/// Keeps this process on the last core.
pub(crate) fn pin() {
    if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.last().copied()) {
        core_affinity::set_for_current(core);
    }
}

/// Generates the load, and prints what was measured.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let client = async_nats::connect(&options.url).await?;
    match (options.in_flight, options.every_us) {
        (None, _) => fill(&client, options).await,
        (Some(_), Some(every_us)) => print(paced(&client, options, Duration::from_micros(every_us)).await?),
        (Some(in_flight), None) => print(closed_loop(&client, options, in_flight).await?),
    }
}

fn print(latency: Latency) -> Result<()> {
    println!("{}", serde_json::to_string(&latency)?);
    Ok(())
}

fn subject(options: &Options, number: u64) -> String {
    format!("in.{}", number % options.subjects)
}

async fn fill(client: &async_nats::Client, options: &Options) -> Result<()> {
    let context = jetstream::new(client.clone());
    let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_MAX);
    // The client buffers what is not confirmed; of large payloads, it shall not be too much.
    let most = UNCONFIRMED_MAX.min((64 << 20) / options.size.max(1)).max(1);
    for number in 0..options.events {
        if unconfirmed.len() >= most
            && let Some(oldest) = unconfirmed.pop_front()
        {
            let oldest: jetstream::context::PublishAckFuture = oldest;
            oldest.await?;
        }
        let payload = options.work.payload(number, options.size, options.fails_each);
        unconfirmed.push_back(context.publish(subject(options, number), payload.into()).await?);
    }
    for confirmation in unconfirmed {
        confirmation.await?;
    }
    Ok(())
}

/// The times at which events were sent, and how long they took.
struct Watch {
    sent: Vec<Instant>,
    taken: Histogram<u64>,
    warm_up: u64,
}

impl Watch {
    fn new(events: u64) -> Result<Watch> {
        let sent = Vec::with_capacity(usize::try_from(events)?);
        Ok(Watch { sent, taken: Histogram::new(3)?, warm_up: events / 10 })
    }

    fn heard(&mut self, work: Work, output: &[u8]) -> Result<()> {
        let number = work.number(output).context("an output that is of no event")?;
        let sent = self.sent.get(usize::try_from(number)?).context("an output of an event that was not sent")?;
        if number >= self.warm_up {
            self.taken.record(u64::try_from(sent.elapsed().as_nanos())?)?;
        }
        Ok(())
    }

    fn latency(&self, since: Instant) -> Latency {
        let us = |quantile: f64| micros(self.taken.value_at_quantile(quantile));
        let (p50_us, p99_us) = (us(0.5), us(0.99));
        #[allow(clippy::cast_precision_loss, reason = "far fewer events than a float can count")]
        let rate = self.taken.len() as f64 / since.elapsed().as_secs_f64();
        Latency { rate, p50_us, p99_us, longest_us: micros(self.taken.max()) }
    }
}

#[allow(clippy::cast_precision_loss, reason = "no latency is as long as that")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Sends the next event when an output has come.
async fn closed_loop(client: &async_nats::Client, options: &Options, in_flight: u64) -> Result<Latency> {
    let mut outputs = client.subscribe(options.work.output()).await?;
    client.flush().await?;
    let mut watch = Watch::new(options.events)?;
    let mut since = Instant::now();
    let mut heard = 0;
    let mut next = 0;
    while heard < options.events {
        while next < options.events && next < heard + in_flight {
            let payload = options.work.payload(next, options.size, options.fails_each);
            watch.sent.push(Instant::now());
            client.publish(subject(options, next), payload.into()).await?;
            next += 1;
        }
        let output = timeout(SILENCE_MAX, outputs.next()).await.context("no outputs come any more")?;
        let Some(output) = output else { bail!("the connection has ended") };
        watch.heard(options.work, &output.payload)?;
        heard += 1;
        if heard == watch.warm_up {
            since = Instant::now();
        }
    }
    Ok(watch.latency(since))
}

/// Sends events at a constant rate. How long an event takes counts from when it was due, so that a stall is not
/// counted as one slow event only.
async fn paced(client: &async_nats::Client, options: &Options, every: Duration) -> Result<Latency> {
    let mut outputs = client.subscribe(options.work.output()).await?;
    client.flush().await?;
    let mut watch = Watch::new(options.events)?;
    let start = Instant::now();
    let mut since = start;
    let mut heard = 0;
    let mut next: u32 = 0;
    while heard < options.events {
        while u64::from(next) < options.events && start + every * next <= Instant::now() {
            let payload = options.work.payload(next.into(), options.size, options.fails_each);
            watch.sent.push(start + every * next);
            client.publish(subject(options, next.into()), payload.into()).await?;
            next += 1;
        }
        let due = if u64::from(next) < options.events { start + every * next } else { Instant::now() + SILENCE_MAX };
        tokio::select! {
            output = outputs.next() => {
                let Some(output) = output else { bail!("the connection has ended") };
                watch.heard(options.work, &output.payload)?;
                heard += 1;
                if heard == watch.warm_up {
                    since = Instant::now();
                }
            }
            () = tokio::time::sleep_until(due.into()) => {
                if u64::from(next) >= options.events {
                    bail!("no outputs come any more: {heard} of {}", options.events);
                }
            }
        }
    }
    Ok(watch.latency(since))
}
