//! Which instance is the active one of a handler whose events must all go through one.
//!
//! The active instance claims a marker and renews it. Another one claims it when it was released, or was not renewed
//! for the whole time of the lease, measured by its own clock alone. The active one stops before that: it gives up when
//! it could not renew in three quarters of the time. Compare-and-set decides between two that claim at once.
//!
//! This is the lease of Gray and Cheriton (1989), with the safety margin on the holder's side.

use std::sync::Arc;
use std::time::Duration;

use tidemill_policy::manifest::Handler;
use tidemill_policy::marker::{self, Marker};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, MarkerError};
use crate::pipeline::Stop;

/// The longest lease: how long an instance that died is waited for.
const LEASE_MAX: Duration = Duration::from_secs(8);

/// How long the lease of a handler's active instance lasts.
pub fn lease(handler: &Handler) -> Duration {
    handler.ack_wait.min(LEASE_MAX)
}

/// How long the events of an ordered handler may wait when the instance that has them dies: for the end of its lease,
/// where there is an active one, and until the server takes the events from it.
pub fn fail_over(handler: &Handler) -> Duration {
    match handler.window() {
        None => handler.ack_wait,
        Some(_) => (lease(handler) * 5 / 4).max(handler.ack_wait),
    }
}

/// A handler's claim on being the active instance.
#[derive(Debug)]
pub struct Leader<B> {
    broker: Arc<B>,
    handler: String,
    key: String,
    claim: Marker,
    lease: Duration,
}

/// The time in which this instance is the active one.
#[derive(Debug)]
struct Term {
    revision: u64,
    /// When the claim was renewed last.
    since: Instant,
}

impl<B: Broker> Leader<B> {
    /// A claim in the name of `instance`, which no other instance has.
    pub fn new(broker: Arc<B>, handler: &Handler, instance: &str) -> Leader<B> {
        let claim = Marker::Claimed { instance: instance.to_owned() };
        Leader { broker, handler: handler.name.clone(), key: marker::leader(handler), claim, lease: lease(handler) }
    }

    /// Waits until this instance is the active one; nothing when `stop` comes first.
    async fn acquire(&self, stop: &CancellationToken) -> Option<Term> {
        stop.run_until_cancelled(self.claim_when_free()).await
    }

    async fn claim_when_free(&self) -> Term {
        // The claim of somebody else, and since when we see it without a change.
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let since = Instant::now();
            let is_free = match self.broker.recall(&self.key).await {
                Err(_) => None,
                Ok(recalled) if matches!(recalled.marker, Some(Marker::Claimed { .. })) => {
                    let (revision, first) = *seen.get_or_insert((recalled.revision, since));
                    if revision != recalled.revision {
                        seen = Some((recalled.revision, since));
                    }
                    let is_over = revision == recalled.revision && first.elapsed() > self.lease;
                    is_over.then_some(recalled.revision)
                }
                Ok(recalled) => Some(recalled.revision),
            };
            if let Some(revision) = is_free
                && let Ok(revision) = self.write(&self.claim, revision).await
                && since.elapsed() < self.lease / 2
            {
                return Term { revision, since };
            }
            sleep(self.lease / 8).await;
        }
    }

    /// Renews the claim until somebody else has it, or may have it soon because it could not be renewed.
    async fn keep(&self, term: &mut Term) {
        loop {
            let end = term.since + self.lease * 3 / 4;
            sleep(self.lease / 8).await;
            let since = Instant::now();
            match timeout_at(end, self.write(&self.claim, term.revision)).await {
                Ok(Ok(revision)) => *term = Term { revision, since },
                Ok(Err(MarkerError::Unavailable(_))) if Instant::now() < end => {}
                Ok(Err(MarkerError::Conflict)) => match timeout_at(end, self.broker.recall(&self.key)).await {
                    // What we wrote arrived although that was not confirmed.
                    Ok(Ok(recalled)) if recalled.marker.as_ref() == Some(&self.claim) => {
                        term.revision = recalled.revision;
                    }
                    _ => return,
                },
                _ => return,
            }
        }
    }

    /// Lets another instance take over at once. Where this does not arrive, it has to wait for the end of the lease.
    async fn release(&self, term: Term) {
        if let Err(error) = self.write(&Marker::Released, term.revision).await {
            tracing::debug!(%error, "could not say that another instance may take over");
        }
    }

    /// Serves term after term until the process stops and what was begun has ended. `serve` pulls until it is asked
    /// to stop, and ends when what it began has ended.
    pub async fn lead<F: Future<Output = ()>>(&self, stop: &Stop, serve: impl Fn(Stop) -> F) {
        while let Some(mut term) = self.acquire(&stop.requested).await {
            tracing::info!(handler = %self.handler, "this instance is the active one");
            let of_term = Stop { requested: stop.requested.child_token(), overdue: stop.overdue.child_token() };
            let is_lost = tokio::select! {
                biased;
                () = self.keep(&mut term) => true,
                () = serve(of_term.clone()) => false,
            };
            if is_lost {
                tracing::warn!(handler = %self.handler, "this instance is not the active one any more");
                // Another instance may be running the same events by now.
                of_term.requested.cancel();
                of_term.overdue.cancel();
            } else {
                self.release(term).await;
            }
        }
    }

    async fn write(&self, marker: &Marker, revision: u64) -> Result<u64, MarkerError> {
        self.broker.remember(&self.key, marker, self.lease * 4, revision).await
    }
}
