//! Looks after what the instances of a handler share: the record of its circuit breaker, and the meter of a rate limit
//! that holds for all of them. Both are keys of the bucket of markers, replaced by compare-and-set.
//!
//! One task for each handler does it all in turn, so that nothing here can overtake anything else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_policy::gate::Start;
use tidemill_policy::gate::breaker::{self, Probe, Record, State as Breaker};
use tidemill_policy::gate::rate::{self, Meter};
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Across, CircuitBreaker, Handler, Mode, RateLimit};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{GRANT_AGE_MAX, Gate, News, nanos};
use crate::broker::{Broker, MarkerError};

/// How often the breaker is looked at: of a handler that has one, and of one that can only be opened by hand.
pub const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long to wait after the broker could not be reached.
const FAULT_DELAY: Duration = Duration::from_millis(500);
/// How often something is tried again because another instance was faster, before others get their turn.
const CONFLICTS_MAX: usize = 16;
/// How far ahead beginnings of a shared limit are reserved: no further, so that all instances get some.
const AHEAD: Duration = Duration::from_millis(250);
/// How long a reservation may take: one that took longer is not made use of.
const RESERVATION_MAX: Duration = Duration::from_secs(1);
/// The most beginnings that are reserved at once.
const GRANTS_MAX: usize = 1024;
/// How long records are kept after they mean something.
const KEPT_FOR: Duration = Duration::from_hours(24);
/// How long what was opened by hand without an end is kept, and the server holds its consumers back.
pub const FOR_EVER: Duration = Duration::from_hours(24 * 3650);

/// The key of a handler's breaker in the bucket. Keys of markers have no dot.
pub fn breaker_key(handler: &str) -> String {
    format!("breaker.{handler}")
}

fn rate_key(handler: &str) -> String {
    format!("rate.{handler}")
}

/// Whether instances of a handler share anything: broadcast handlers have one instance each.
pub fn is_shared(handler: &Handler) -> bool {
    handler.mode == Mode::Queue
}

/// Until when the server holds the consumers of a handler back, in milliseconds since the Unix epoch.
pub fn held_until(record: &Record) -> Option<u64> {
    match record.state {
        Breaker::Open { until_ms } | Breaker::Held { until_ms: Some(until_ms) } => Some(until_ms),
        Breaker::Held { until_ms: None } => Some(record.since_ms.saturating_add(millis(FOR_EVER))),
        Breaker::Closed | Breaker::HalfOpen { .. } => None,
    }
}

/// For how long a record is kept.
pub fn lifetime(record: &Record, now_ms: u64) -> Duration {
    let rest = held_until(record).map_or(0, |until_ms| until_ms.saturating_sub(now_ms));
    KEPT_FOR.saturating_add(Duration::from_millis(rest))
}

/// Looks after a gate.
#[derive(Debug)]
pub struct Keeper<B> {
    gate: Arc<Gate>,
    broker: Arc<B>,
    instance: String,
    /// The handler's consumers: streams and names.
    consumers: Vec<(String, String)>,
    /// How many probes were claimed.
    claims: u64,
    /// Until when the server was told to hold the consumers back.
    held_until: Option<u64>,
    looked: Option<Instant>,
}

/// What is to be done next.
enum Job {
    Tell(News),
    Look,
    Claim,
    Reserve(RateLimit, usize),
    /// Nothing before this time, unless something changes.
    Wait(Duration),
}

impl<B: Broker> Keeper<B> {
    /// Looks at the breaker once, before anything is pulled.
    pub async fn start(
        gate: Arc<Gate>,
        broker: Arc<B>,
        instance: String,
        consumers: Vec<(String, String)>,
    ) -> Keeper<B> {
        let mut keeper = Keeper { gate, broker, instance, consumers, claims: 0, held_until: None, looked: None };
        if let Err(error) = keeper.look().await {
            tracing::debug!(handler = %keeper.gate.handler.name, %error, "could not look at the breaker");
        }
        keeper
    }

    /// Goes on until `stop`, and then tells what there is to be told.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let job = self.next();
            if stop.is_cancelled() && !matches!(job, Job::Tell(_)) {
                return;
            }
            let done = match job {
                Job::Wait(time) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = self.gate.work.notified() => {}
                        () = sleep(time) => {}
                    }
                    self.gate.tell(&self.gate.lock());
                    continue;
                }
                Job::Tell(news) => self.tell(&news).await,
                Job::Look => self.look().await,
                Job::Claim => self.claim().await,
                Job::Reserve(limit, count) => self.reserve(&limit, count).await,
            };
            let Err(error) = done else { continue };
            tracing::debug!(handler = %self.gate.handler.name, %error, "what instances share cannot be reached");
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(FAULT_DELAY) => {}
            }
        }
    }

    fn next(&self) -> Job {
        let handler = &self.gate.handler;
        let now_ms = self.gate.clock.now_ms();
        let mut state = self.gate.lock();
        if let Some(news) = state.news.front() {
            return Job::Tell(news.clone());
        }
        let period = if handler.circuit_breaker.is_some() { LOOKS.0 } else { LOOKS.1 };
        let rest = self.looked.map_or(Duration::ZERO, |looked| period.saturating_sub(looked.elapsed()));
        if rest.is_zero() {
            return Job::Look;
        }
        if state.claim.as_ref().is_some_and(|claim| claim.until_ms <= now_ms) {
            state.claim = None;
        }
        let can_claim = state.claim.is_none() && breaker::probing(&state.record, "", Duration::ZERO, now_ms).is_some();
        if can_claim && !state.waiting.is_empty() {
            return Job::Claim;
        }
        let now = Instant::now();
        state.grants.retain(|(_, until)| now <= *until);
        let is_open = breaker::next(&state.record, now_ms) == Start::Now;
        // No more than may begin besides.
        let usable = if is_open && state.brake.hold().is_none() { GRANTS_MAX } else { 1 };
        let can_begin = (is_open || state.claim.is_some()) && state.brake.next(now_ms) == Start::Now;
        let wanted = state.waiting.len().min(usable).saturating_sub(state.grants.len());
        if let Some(limit) = handler.rate_limit.filter(|limit| limit.across == Across::Instances)
            && can_begin
            && wanted > 0
        {
            return Job::Reserve(limit, wanted);
        }
        let until_ms = match state.record.state {
            Breaker::Open { until_ms }
            | Breaker::Held { until_ms: Some(until_ms) }
            | Breaker::HalfOpen { probe: Some(Probe { until_ms, .. }), .. } => until_ms,
            _ => u64::MAX,
        };
        let turn = Duration::from_millis(until_ms.saturating_sub(now_ms).max(1));
        Job::Wait(if until_ms <= now_ms { rest } else { rest.min(turn) })
    }

    /// Takes over what the breaker is in.
    async fn adopt(&mut self, record: Record) {
        let until_ms = held_until(&record);
        {
            let state = self.gate.lock();
            // What was opened here and is not told yet goes before what is read.
            if state.news.iter().any(|news| matches!(news, News::Open { .. }))
                && matches!(record.state, Breaker::Closed)
            {
                return;
            }
        }
        self.gate.take_over(record);
        if until_ms == self.held_until {
            return;
        }
        match self.broker.pause(&self.consumers, until_ms).await {
            Ok(()) => self.held_until = until_ms,
            Err(error) => {
                tracing::warn!(handler = %self.gate.handler.name, %error, "the server does not hold the consumers back");
                // This process pulls nothing anyway, and does not ask again.
                self.held_until = until_ms;
            }
        }
    }

    async fn look(&mut self) -> Result<(), MarkerError> {
        let stored = self.broker.read_record(&breaker_key(&self.gate.handler.name)).await?;
        self.looked = Some(Instant::now());
        let now_ms = self.gate.clock.now_ms();
        let local = self.gate.lock().record.clone();
        let is_kept = matches!(breaker::settled(&local, now_ms).state, Breaker::Held { .. });
        if stored.value.is_none() && is_kept {
            // The bucket forgets what is old where single keys cannot be kept longer; closing it leaves a record.
            return self
                .change(|record, _| matches!(record.state, Breaker::Closed).then(|| local.clone()))
                .await
                .map(drop);
        }
        let record = breaker::settled(&self.read(stored.value.as_ref()), now_ms);
        self.adopt(record).await;
        Ok(())
    }

    /// Tells other instances, and forgets the news once they are told.
    async fn tell(&mut self, news: &News) -> Result<(), MarkerError> {
        match (news, self.gate.handler.circuit_breaker) {
            (News::Open { reason }, Some(policy)) => {
                self.change(|record, now_ms| breaker::opened(&policy, record, reason, now_ms)).await?;
            }
            (News::Probed { holder, succeeded }, policy) => {
                let policy = policy.unwrap_or(BY_HAND);
                self.change(|record, now_ms| breaker::probed(&policy, record, holder, *succeeded, now_ms)).await?;
            }
            (News::Open { .. }, None) => {}
        }
        let record = {
            let mut state = self.gate.lock();
            state.news.pop_front();
            state.record.clone()
        };
        self.adopt(record).await;
        Ok(())
    }

    /// Claims the right to try an event. A claim that was stored although its confirmation was lost is ours too.
    async fn claim(&mut self) -> Result<(), MarkerError> {
        let holder = format!("{}/{}", self.instance, self.claims);
        let handler = Arc::clone(&self.gate.handler);
        let lease = handler.limits.budget.timeout.saturating_add(handler.ack_wait);
        self.change(|record, now_ms| breaker::probing(record, &holder, lease, now_ms)).await?;
        let gate = &self.gate;
        let mut state = gate.lock();
        if let Breaker::HalfOpen { probe: Some(probe), .. } = &state.record.state
            && probe.holder == holder
        {
            state.claim = Some(probe.clone());
            self.claims += 1;
            gate.let_others_go_on(&state);
        }
        Ok(())
    }

    /// Replaces the breaker's record by what `next` makes of it, unless that is nothing; takes over what it is then.
    async fn change(&mut self, next: impl Fn(&Record, u64) -> Option<Record>) -> Result<bool, MarkerError> {
        let key = breaker_key(&self.gate.handler.name);
        for _ in 0..CONFLICTS_MAX {
            let stored = self.broker.read_record(&key).await?;
            let record = self.read(stored.value.as_ref());
            let now_ms = self.gate.clock.now_ms();
            let Some(new) = next(&record, now_ms) else {
                self.adopt_told(breaker::settled(&record, now_ms)).await;
                return Ok(false);
            };
            match self.broker.replace_record(&key, json(&new), lifetime(&new, now_ms), stored.revision).await {
                Ok(_) => {
                    self.adopt_told(new).await;
                    return Ok(true);
                }
                Err(MarkerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(MarkerError::Conflict)
    }

    /// As [`Keeper::adopt`], where what was opened here has been told.
    async fn adopt_told(&mut self, record: Record) {
        self.gate.take_over(record.clone());
        self.adopt(record).await;
    }

    /// Reserves beginnings of a limit that holds for all instances, as far as they lie in the near future.
    async fn reserve(&mut self, limit: &RateLimit, count: usize) -> Result<(), MarkerError> {
        let key = rate_key(&self.gate.handler.name);
        for _ in 0..CONFLICTS_MAX {
            let since = Instant::now();
            let stored = self.broker.read_record(&key).await?;
            let mut meter: Meter = self.read(stored.value.as_ref());
            let now_ns = nanos(self.gate.clock.now_ms());
            let end_ns = now_ns.saturating_add(nanos(millis(AHEAD)));
            let first_ns = rate::earliest(limit, &meter, now_ns);
            if first_ns > end_ns {
                let rest = Duration::from_nanos(first_ns - end_ns);
                // The breaker is looked at in between, and what is to be told is told.
                sleep(rest.min(FAULT_DELAY)).await;
                return Ok(());
            }
            let mut grants = Vec::new();
            while grants.len() < count && rate::earliest(limit, &meter, now_ns) <= end_ns {
                grants.push(rate::reserve(limit, &mut meter, now_ns));
            }
            match self.broker.replace_record(&key, json(&meter), KEPT_FOR, stored.revision).await {
                Ok(_) => {
                    if since.elapsed() <= RESERVATION_MAX {
                        self.grant(grants, now_ns);
                    }
                    return Ok(());
                }
                Err(MarkerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn grant(&self, grants: Vec<u64>, now_ns: u64) {
        let arrived = Instant::now();
        let mut state = self.gate.lock();
        for start_ns in grants {
            let ahead = Duration::from_nanos(start_ns.saturating_sub(now_ns));
            state.grants.push_back((start_ns, arrived + ahead + GRANT_AGE_MAX));
        }
        self.gate.let_others_go_on(&state);
    }

    fn read<T: DeserializeOwned + Default>(&self, value: Option<&Bytes>) -> T {
        let Some(value) = value else { return T::default() };
        serde_json::from_slice(value).unwrap_or_else(|error| {
            tracing::warn!(handler = %self.gate.handler.name, %error, "a record that instances share cannot be read");
            T::default()
        })
    }
}

/// What holds for the probes of a breaker that somebody has taken out of the manifest while it was open.
const BY_HAND: CircuitBreaker = CircuitBreaker {
    trigger: tidemill_policy::manifest::Trigger::InARow { failures: u32::MAX },
    open_for: Duration::from_secs(30),
    open_max: Duration::from_mins(10),
    successes: 1,
};

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
