//! "Latest only": looking at the newest event of a key before a run, and entering and leaving around publishing. The
//! rules are in [`tidemill_policy::latest`]; here they are carried out, in this process and at the broker.

use tidemill_policy::decide::Failure;
use tidemill_policy::latest::{self, Entry, Newest, Place, Seen, Stale};
use tidemill_policy::marker::{self, Marker};
use tidemill_policy::publication::Publication;
use tokio::time::Instant;

use super::memory::{Recent, Remembered, Turn};
use super::{HOLD_DELAYS, Pipeline, Work};
use crate::broker::{Broker, MarkerError, PublishError, Published};
use crate::invoker::Invoker;

/// Where an event stands among those of its key, as far as we know.
#[derive(Debug)]
pub(super) struct Standing {
    place: Place,
    newest: Newest,
    revision: u64,
    /// The right to publish for this key in this process.
    turn: Option<Turn>,
}

/// Why an event's outputs are not stored.
pub(super) enum Unstored {
    /// It has no key or no time.
    Unplaced(Failure),
    /// A newer event of its key was processed.
    Stale(Stale),
    /// A newer event of its key has been run and does not come to an end.
    Blocked,
    /// Somebody else has recorded something of the event, which must be looked at first.
    Overtaken,
    /// The broker did not take them.
    Fault(PublishError),
    /// The time to drain is over.
    Unreachable,
}

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Looks whether a newer event of the key has been processed already, before this one is run.
    pub(super) async fn look_for_newer(&self, work: &mut Work) -> Result<(), Unstored> {
        work.latest = None;
        let Ok(event) = &work.event else { return Ok(()) };
        let place = match latest::place(&self.handler, &work.arrival, event) {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(()),
            Err(failure) => return Err(Unstored::Unplaced(failure)),
        };
        let (newest, revision) = self.newest(&place.key).await?;
        if newest.makes_stale(&place.mine) {
            return Err(Unstored::Stale(place.stale(&newest)));
        }
        work.latest = Some(Standing { place, newest, revision, turn: None });
        Ok(())
    }

    /// Stores the outputs of an event that was run, as long as it is sure that nobody else has it. Where events of its
    /// key have an order, it enters before each try and leaves when all is confirmed, or withdraws where the broker does
    /// not take them.
    pub(super) async fn store_outputs(&self, work: &mut Work, batch: &[Publication]) -> Result<Published, Unstored> {
        let mut delay = HOLD_DELAYS.0;
        loop {
            match self.try_outputs(work, batch).await {
                Err(Unstored::Fault(fault @ PublishError::Unavailable { .. })) => {
                    work.is_repeating = true;
                    tracing::debug!(handler = %self.handler.name, %fault, "holding on to an event");
                    if !Box::pin(self.hold(&mut delay)).await {
                        return Err(Unstored::Unreachable);
                    }
                }
                tried => return tried,
            }
        }
    }

    async fn try_outputs(&self, work: &mut Work, batch: &[Publication]) -> Result<Published, Unstored> {
        match self.make_sure(work).await {
            Remembered::Stored => {}
            Remembered::Overtaken => return Err(Unstored::Overtaken),
            Remembered::Unreachable => return Err(Unstored::Unreachable),
        }
        let Some(mut standing) = work.latest.take() else {
            return self.send_outputs(batch).await.map_err(Unstored::Fault);
        };
        let tried = Box::pin(self.try_in_turn(&mut standing, batch)).await;
        if matches!(tried, Err(Unstored::Fault(PublishError::Unavailable { .. }))) {
            work.latest = Some(standing);
        }
        tried
    }

    async fn try_in_turn(&self, standing: &mut Standing, batch: &[Publication]) -> Result<Published, Unstored> {
        self.enter(standing).await?;
        match self.send_outputs(batch).await {
            Ok(published) => self.update(standing, Newest::leave).await.map(|()| published),
            Err(fault @ PublishError::Unavailable { .. }) => Err(Unstored::Fault(fault)),
            Err(fault) => {
                self.update(standing, Newest::withdraw).await?;
                Err(Unstored::Fault(fault))
            }
        }
    }

    /// Enters, and waits for another event of the key that has entered before.
    async fn enter(&self, standing: &mut Standing) -> Result<(), Unstored> {
        if standing.turn.is_none() {
            standing.turn = tokio::select! {
                biased;
                turn = Recent::turn(&self.recent, standing.place.key.as_str().into()) => Some(turn),
                () = self.stop.overdue.cancelled() => return Err(Unstored::Unreachable),
            };
        }
        let mut delay = HOLD_DELAYS.0;
        let mut unchanged_since = (standing.revision, Instant::now());
        loop {
            if unchanged_since.0 != standing.revision {
                unchanged_since = (standing.revision, Instant::now());
                delay = HOLD_DELAYS.0;
            }
            let is_abandoned = unchanged_since.1.elapsed() >= latest::patience(&self.handler);
            match standing.newest.enter(&standing.place.mine, is_abandoned) {
                Entry::Stale => return Err(Unstored::Stale(standing.place.stale(&standing.newest))),
                Entry::Blocked => return Err(Unstored::Blocked),
                Entry::Enter(newest) => {
                    if self.write_newest(standing, newest).await? {
                        return Ok(());
                    }
                }
                Entry::Wait => {
                    if !self.hold(&mut delay).await {
                        return Err(Unstored::Unreachable);
                    }
                    (standing.newest, standing.revision) = self.newest(&standing.place.key).await?;
                }
            }
        }
    }

    /// Forgets that an event has entered which is given up: an attempt before may have died after that. Returns false
    /// if the process stops before that is done.
    pub(super) async fn withdraw(&self, work: &mut Work) -> bool {
        let Ok(event) = &work.event else { return true };
        let Ok(Some(place)) = latest::place(&self.handler, &work.arrival, event) else { return true };
        let Ok((newest, revision)) = self.newest(&place.key).await else { return false };
        let mut standing = Standing { place, newest, revision, turn: None };
        self.update(&mut standing, Newest::withdraw).await.is_ok()
    }

    /// Changes what is remembered of the key, whatever others write meanwhile.
    async fn update(&self, standing: &mut Standing, change: fn(&Newest, &Seen) -> Newest) -> Result<(), Unstored> {
        loop {
            let newest = change(&standing.newest, &standing.place.mine);
            if newest == standing.newest || self.write_newest(standing, newest).await? {
                return Ok(());
            }
        }
    }

    /// Replaces what is remembered of the key. Returns false where somebody else has: then what they wrote is known.
    async fn write_newest(&self, standing: &mut Standing, newest: Newest) -> Result<bool, Unstored> {
        let marker = Marker::Newest(newest.clone());
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        let mut delay = HOLD_DELAYS.0;
        loop {
            match self.broker.remember(&standing.place.key, &marker, lifetime, standing.revision).await {
                Ok(revision) => {
                    (standing.newest, standing.revision) = (newest, revision);
                    return Ok(true);
                }
                Err(MarkerError::Conflict) => {
                    let known = standing.revision;
                    (standing.newest, standing.revision) = self.newest(&standing.place.key).await?;
                    if standing.revision != known {
                        return Ok(false);
                    }
                    // The replica that was asked does not know of it yet.
                }
                Err(MarkerError::Unavailable(why)) => {
                    tracing::debug!(handler = %self.handler.name, why, "holding on to an event");
                }
            }
            if !self.hold(&mut delay).await {
                return Err(Unstored::Unreachable);
            }
        }
    }

    async fn newest(&self, key: &str) -> Result<(Newest, u64), Unstored> {
        let recalled = self.look_up(key).await.ok_or(Unstored::Unreachable)?;
        match recalled.marker {
            Some(Marker::Newest(newest)) => Ok((newest, recalled.revision)),
            _ => Ok((Newest::default(), recalled.revision)),
        }
    }
}
