//! What keeps requests to one origin back: the rate limit and the circuit breaker of `http`, for all instances of a handler
//! in this process. A handler that calls back to who sent it an event could drown it otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidemill_policy::gate::Start;
use tidemill_policy::gate::breaker::{self, Record, Tally};
use tidemill_policy::gate::rate::{self, Meter};
use tidemill_policy::manifest::{HttpPolicy, show_duration};
use tidemill_policy::reach::Origin;

use super::Client;
use crate::clock::Clock;

/// What is known of an origin.
pub(super) struct Gate {
    policy: HttpPolicy,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    meter: Meter,
    tally: Tally,
    record: Record,
    /// How many requests were tried while the breaker was open, so that each has a name of its own.
    tried: u64,
}

/// A request that has passed, or will at its time, and whose end is to be told.
pub(super) struct Wait {
    client: Arc<Client>,
    origin: Origin,
    starts: Duration,
    /// The name of the right to try a request, where that is what it has.
    probe: Option<String>,
    deadline: Instant,
    is_told: bool,
}

impl Gate {
    pub(super) fn new(policy: HttpPolicy) -> Gate {
        Gate { policy, state: Mutex::default() }
    }

    /// Lets a request pass after the time that is returned, which is no more than `patience`; as a try where there is a name.
    fn enter(&self, patience: Duration, now_ms: u64) -> Result<(Duration, Option<String>), String> {
        let mut state = self.lock();
        let nanos = now_ms.saturating_mul(1_000_000);
        let mut wait = Duration::ZERO;
        if let Some(limit) = &self.policy.rate_limit {
            wait = Duration::from_nanos(rate::earliest(limit, &state.meter, nanos) - nanos);
            if wait > patience {
                return Err(format!("its turn under `http.rate_limit` ({limit}) would come too late"));
            }
        }
        let probe = if self.policy.circuit_breaker.is_some() { self.pass(&mut state, now_ms)? } else { None };
        if let Some(limit) = &self.policy.rate_limit {
            rate::reserve(limit, &mut state.meter, nanos);
        }
        Ok((wait, probe))
    }

    /// Whether the breaker lets a request pass; as a try where there is a name.
    fn pass(&self, state: &mut State, now_ms: u64) -> Result<Option<String>, String> {
        let why = |state: &State| format!("the circuit breaker of the origin is open, since {}", state.record.reason);
        match breaker::next(&state.record, now_ms) {
            Start::Now => Ok(None),
            Start::At(until_ms) => {
                let left = show_duration(Duration::from_millis(until_ms.saturating_sub(now_ms)));
                Err(format!("{}; it is tried again in {left}", why(state)))
            }
            Start::Later => {
                let holder = state.tried.to_string();
                let lease = self.policy.request_timeout;
                match breaker::probing(&state.record, &holder, lease, now_ms) {
                    Some(record) => {
                        state.record = record;
                        state.tried += 1;
                        Ok(Some(holder))
                    }
                    None => Err(format!("{}; another request is trying it", why(state))),
                }
            }
        }
    }

    /// Takes note of how a request has ended; nothing for one that was given up.
    fn ended(&self, probe: Option<&str>, failed: Option<bool>, now_ms: u64) {
        let Some(policy) = &self.policy.circuit_breaker else { return };
        let mut state = self.lock();
        let after = match (probe, failed) {
            (Some(holder), failed) => {
                breaker::probed(policy, &state.record, holder, failed.map(|failed| !failed), now_ms)
            }
            (None, Some(failed)) => {
                let reason = state.tally.observe(&policy.trigger, failed, now_ms);
                reason.and_then(|reason| {
                    let reason = reason.replace("attempts", "requests");
                    breaker::opened(policy, &state.record, &reason, now_ms)
                })
            }
            (None, None) => None,
        };
        if let Some(record) = after {
            state.record = record;
        }
    }

    /// Nothing here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Passes the gate of an origin, for a request that ends at a time and an invocation with a deadline.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(super) fn enter(
        client: Arc<Client>,
        origin: &Origin,
        ends: Instant,
        deadline: Instant,
    ) -> Result<Wait, String> {
        let patience = ends.saturating_duration_since(Instant::now());
        let passed = client.gates.get(origin).map(|gate| gate.enter(patience, Clock::System.now_ms())).transpose()?;
        let (starts, probe) = passed.unwrap_or_default();
        Ok(Wait { client, origin: origin.clone(), starts, probe, deadline, is_told: false })
    }

    /// How long the request has to wait.
    pub(super) fn starts(&self) -> Duration {
        self.starts
    }

    /// Says how the request has ended.
    pub(super) fn ended(mut self, failed: bool) {
        self.tell(Some(failed));
    }

    fn tell(&mut self, failed: Option<bool>) {
        self.is_told = true;
        if let Some(gate) = self.client.gates.get(&self.origin) {
            gate.ended(self.probe.as_deref(), failed, Clock::System.now_ms());
        }
    }
}

impl Drop for Wait {
    /// A request that was cut off by the end of its invocation has failed; one that the guest gave up says nothing.
    fn drop(&mut self) {
        if !self.is_told {
            self.tell((Instant::now() >= self.deadline).then_some(true));
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_policy::manifest::{Across, CircuitBreaker, RateLimit, Trigger};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn gate(rate_limit: Option<RateLimit>, failures: Option<u32>) -> Gate {
        let circuit_breaker = failures.map(|failures| CircuitBreaker {
            trigger: Trigger::InARow { failures },
            open_for: Duration::from_secs(10),
            open_max: Duration::from_mins(1),
            successes: 1,
        });
        Gate::new(HttpPolicy {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            response_bytes: 1,
            in_flight: 1,
            rate_limit,
            circuit_breaker,
        })
    }

    #[test]
    fn requests_wait_for_their_turn_or_are_refused() {
        let limit = RateLimit { count: 10, per: Duration::from_secs(1), burst: 1, across: Across::Instance };
        let gate = gate(Some(limit), None);
        let enter = |patience| gate.enter(Duration::from_millis(patience), NOW_MS);
        assert_eq!(enter(0), Ok((Duration::ZERO, None)));
        assert_eq!(enter(100), Ok((Duration::from_millis(100), None)));
        let said = enter(100).expect_err("too late");
        assert!(said.contains("http.rate_limit"), "{said}");
        assert_eq!(enter(200), Ok((Duration::from_millis(200), None)), "what was refused took no turn");
    }

    #[test]
    fn an_origin_that_fails_is_left_alone_and_tried_again() {
        let gate = gate(None, Some(2));
        let enter = |now_ms| gate.enter(Duration::ZERO, now_ms).map(|(_, probe)| probe);
        for failed in [true, false, true, true] {
            assert_eq!(enter(NOW_MS), Ok(None));
            gate.ended(None, Some(failed), NOW_MS);
        }
        let said = enter(NOW_MS + 4000).expect_err("open");
        assert_eq!(
            said,
            "the circuit breaker of the origin is open, since 2 requests in a row have failed; it is tried again in 6s"
        );
        let later = NOW_MS + 10_000;
        let probe = enter(later).expect("tried").expect("a try");
        assert!(enter(later).is_err_and(|said| said.contains("another request is trying it")));
        gate.ended(Some(&probe), None, later);
        let probe = enter(later).expect("tried again, since the first try was given up").expect("a try");
        gate.ended(Some(&probe), Some(false), later);
        assert_eq!(enter(later), Ok(None));
    }
}
