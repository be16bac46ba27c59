//! One run: waves of events while instances are killed and the server is restarted, then the audit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::audit::Audit;
use crate::instances::Instances;
use crate::plan::{Copy, Event, Message};
use crate::progress::{self, POLL_INTERVAL, Rest};
use crate::report::Outcome;
use crate::server::{Broker, free_ports};
use crate::unrest::{self, Blow, Moment};
use crate::{feed, ledger, manifest};

/// How many instances run at once.
const INSTANCES: usize = 2;
/// How long the server may take to answer or confirm; shorter than usual, since it is often away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long nothing at all may happen.
const STALL_MAX: Duration = Duration::from_mins(1);
/// After how long without any change messages in the retry stream are taken for left over; they wait for less than a
/// second.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(10);
/// For how long to wait for work in flight before a kill: with a wave's last events, there may be none.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// Which share of a wave's results must be there before the next wave begins, in percent.
const WAVE_DONE_PERCENT: u64 = 80;
/// After the first message of an order, its twin is published as the next but so many.
const TWIN_DISTANCE: usize = 3;

/// What a run is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How many events at least.
    pub(crate) events: u64,
    /// For how long at least.
    pub(crate) duration: Duration,
    /// What the events and the kills follow from.
    pub(crate) seed: u64,
}

/// Runs with all files in `folder`.
pub(crate) async fn run(folder: &Path, options: Options) -> Result<Outcome> {
    let ports = free_ports(1 + INSTANCES)?;
    let broker = Broker::start(&folder.join("nats"), ports[0]).await?;
    let client = async_nats::connect(&broker.url).await.context("cannot connect to the private server")?;
    let context = ContextBuilder::new()
        .timeout(ANSWER_TIMEOUT)
        .ack_timeout(ANSWER_TIMEOUT)
        .max_ack_inflight(1024)
        .backpressure_on_inflight(true)
        .build(client);
    let batches = manifest::create_streams(&context).await?;
    let manifest = manifest::write(folder, &broker.url, batches)?;
    let instances = Instances::start(folder, &manifest, &ports[1..])?;
    let mut run = Run {
        context,
        broker,
        instances,
        options,
        events: 0,
        expected: 0,
        handled: watch::channel(0).0,
        outcome: Outcome::default(),
    };
    match run.go().await {
        Ok(()) => run.finish().await,
        Err(error) => {
            // So that the streams can be looked at as they are now.
            run.broker.end(false).await;
            Err(error)
        }
    }
}

struct Run {
    context: jetstream::Context,
    broker: Broker,
    instances: Instances,
    options: Options,
    /// How many events are published.
    events: u64,
    /// How many results they must have.
    expected: u64,
    /// Which share of the present wave's results is stored, in percent.
    handled: watch::Sender<u64>,
    outcome: Outcome,
}

impl Run {
    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while progress::rest(&self.context).await.is_err() {
            self.watch(start, "tidemill made no streams")?;
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// All waves. The last begins when everything before it is done, since it brings the late copies.
    async fn go(&mut self) -> Result<()> {
        self.wait_until_ready().await?;
        let start = Instant::now();
        let size = self.options.events.div_ceil(unrest::WAVES_MIN).max(1);
        let mut number = 0;
        loop {
            let is_last = number + 1 >= unrest::WAVES_MIN && start.elapsed() >= self.options.duration;
            let copies = if is_last {
                self.settle().await?;
                late_copies(self.options.seed, self.events)
            } else {
                Vec::new()
            };
            self.wave(number, size, copies).await?;
            println!("  wave {:>3}: {:>8} events, {:>4} kills", number + 1, self.events, self.instances.kills);
            if is_last {
                break;
            }
            number += 1;
        }
        self.settle().await?;
        self.outcome.duration = start.elapsed();
        Ok(())
    }

    /// Publishes a wave of events, among them `copies` of earlier ones, while the plan strikes.
    async fn wave(&mut self, number: u64, size: u64, copies: Vec<Message>) -> Result<()> {
        let events: Vec<_> =
            (self.events..self.events + size).map(|number| Event::new(self.options.seed, number)).collect();
        let results: u64 = events.iter().map(Event::results).sum();
        let twins = events.iter().filter(|event| event.has_twin).count();
        self.outcome.copies += (copies.len() + twins) as u64;
        let before = self.expected;
        self.events += size;
        self.expected += results;
        let mut publishing = JoinSet::new();
        self.handled = watch::channel(0).0;
        publishing.spawn(feed::publish(self.context.clone(), messages(&events, copies), self.handled.subscribe()));
        for moment in unrest::wave(self.options.seed, number, INSTANCES) {
            self.wait_for(before, results, moment.percent).await?;
            self.strike(moment).await?;
        }
        self.wait_for(before, results, WAVE_DONE_PERCENT).await?;
        while let Some(repeats) = publishing.join_next().await {
            self.outcome.repeats += repeats?;
        }
        Ok(())
    }

    async fn strike(&mut self, moment: Moment) -> Result<()> {
        if matches!(moment.blow, Blow::Server { .. }) {
            // Lets the rest of the wave loose, so that the server is hit while it is published to.
            self.handled.send_replace(100);
        }
        sleep(Duration::from_millis(moment.delay_ms)).await;
        match moment.blow {
            Blow::Instance(number) => self.kill(number).await,
            Blow::AllInstances => {
                for number in 0..INSTANCES {
                    self.kill(number).await?;
                }
                Ok(())
            }
            Blow::Server { crash } => self.broker.restart(crash).await,
        }
    }

    /// Kills an instance once it is at work.
    async fn kill(&mut self, number: usize) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < BUSY_TIMEOUT && self.instances.in_flight_of(number).await == 0 {
            self.instances.revive()?;
            sleep(POLL_INTERVAL).await;
        }
        self.instances.kill(number).await
    }

    /// Waits until this share of a wave's results is stored. Those from before the wave may still be on their way.
    async fn wait_for(&mut self, before: u64, results: u64, percent: u64) -> Result<()> {
        let (mut best, mut since) = (0, Instant::now());
        loop {
            // While the server is away, there is no answer.
            let stored = progress::results(&self.context).await.map_or(best, |sum| sum.saturating_sub(before));
            self.handled.send_replace(stored * 100 / results.max(1));
            if stored * 100 >= results * percent {
                return Ok(());
            }
            if stored > best {
                (best, since) = (stored, Instant::now());
            }
            self.watch(since, &format!("{best} of a wave's {results} results are stored"))?;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until nothing is left to be done. What lies in the retry stream without any consumer having to be given
    /// it, long after it was due, is left over: if an event hangs on it, the audit finds that event lost.
    async fn settle(&mut self) -> Result<()> {
        let mut since = Instant::now();
        let mut last = None;
        loop {
            let rest = progress::rest(&self.context).await.ok();
            let now = (rest, progress::results(&self.context).await.ok());
            if Some(now) != last {
                (last, since) = (Some(now), Instant::now());
            }
            if let Some(rest) = rest.filter(Rest::is_settled)
                && (rest.retries == 0 || since.elapsed() > LEFT_OVER_AFTER)
            {
                self.outcome.left_over = rest.retries;
                return Ok(());
            }
            self.watch(since, &format!("not everything is settled: {rest:?}"))?;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Revives instances that ended by themselves, and gives up where nothing has happened for too long.
    fn watch(&mut self, since: Instant, what: &str) -> Result<()> {
        self.instances.revive()?;
        if since.elapsed() > STALL_MAX {
            bail!("nothing happens any more: {what}");
        }
        Ok(())
    }

    /// Ends everything and looks at what the streams hold.
    async fn finish(mut self) -> Result<Outcome> {
        self.outcome.kills = self.instances.kills;
        self.outcome.in_flight.clone_from(&self.instances.in_flight);
        self.outcome.faults.append(&mut self.instances.ended);
        if let Err(error) = self.instances.end().await {
            self.outcome.faults.push(format!("{error:#}"));
        }
        let mut audit = Audit::new(self.options.seed, self.events);
        ledger::read(&self.context, &mut audit).await.context("cannot read what came out")?;
        self.outcome.findings = audit.finish();
        self.outcome.restarts = self.broker.restarts;
        self.broker.end(false).await;
        Ok(self.outcome)
    }
}

/// The messages of a wave in the order in which to publish them: the twins a little after the first messages,
/// the late copies spread evenly.
fn messages(events: &[Event], copies: Vec<Message>) -> Vec<Message> {
    let mut messages = Vec::with_capacity(events.len() + copies.len());
    let mut twins = std::collections::VecDeque::new();
    let distance = events.len() / copies.len().max(1);
    let mut copies = copies.into_iter();
    for (place, event) in events.iter().enumerate() {
        messages.push(event.message(Copy::First));
        if event.has_twin {
            twins.push_back((place + TWIN_DISTANCE, event.message(Copy::Twin)));
        }
        while let Some((_, twin)) = twins.pop_front_if(|(due, _)| *due <= place) {
            messages.push(twin);
        }
        if place % distance.max(1) == 0 {
            messages.extend(copies.next());
        }
    }
    messages.extend(twins.into_iter().map(|(_, twin)| twin));
    messages.extend(copies);
    messages
}

/// The late copies of the first `events` events.
fn late_copies(seed: u64, events: u64) -> Vec<Message> {
    let all = (0..events).map(|number| Event::new(seed, number));
    all.filter(|event| event.has_late_copy).map(|event| event.message(Copy::Late)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_a_wave_is_published_once_and_twins_come_later() {
        let events: Vec<_> = (0..500).map(|number| Event::new(3, number)).collect();
        let copies = late_copies(4, 500);
        let expected = 500 + events.iter().filter(|event| event.has_twin).count() + copies.len();
        let messages = messages(&events, copies.clone());
        assert_eq!(messages.len(), expected);
        assert!(copies.iter().all(|copy| messages.contains(copy)));
        for event in events.iter().filter(|event| event.has_twin) {
            let place = |copy| messages.iter().position(|message| *message == event.message(copy));
            assert!(place(Copy::First) < place(Copy::Twin));
        }
    }
}
