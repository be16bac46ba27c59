//! Whether everything that a consumer has delivered is in hand, so that nothing older than it can arrive any more.
//!
//! The server delivers a message again when `ack_wait` is over: to an instance that takes over, what its predecessor
//! had in flight, and to any instance what was lost on the way. Until that has arrived, an ordered handler must not
//! begin with what came later.

use std::sync::Arc;
use std::time::Duration;

use tidemill_policy::order::is_all_in_hand;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Nats;
use super::consume::Spec;
use super::lease::Leases;
use crate::turns::Turns;

/// How long to wait before the server is asked again: from the first to the second.
const DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Lets the events of an ordered handler begin whenever all is in hand, until `stop`.
pub(super) fn watch(
    nats: &Arc<Nats>,
    spec: &Spec,
    leases: &Arc<Leases>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let watch = spec.turns.clone().map(|turns| Watch {
        nats: Arc::clone(nats),
        stream: spec.stream.clone(),
        consumer: spec.name.clone(),
        credit: spec.credit as usize,
        leases: Arc::clone(leases),
        turns,
    });
    async move {
        if let Some(watch) = watch {
            stop.run_until_cancelled(watch.run()).await;
        }
    }
}

struct Watch {
    nats: Arc<Nats>,
    stream: String,
    consumer: String,
    credit: usize,
    leases: Arc<Leases>,
    turns: Arc<Turns>,
}

impl Watch {
    async fn run(&self) {
        loop {
            let hold = self.turns.held().await;
            let mut delay = DELAYS.0;
            while !self.is_all_in_hand().await {
                sleep(delay).await;
                delay = (delay * 2).min(DELAYS.1);
            }
            self.turns.release(hold);
        }
    }

    async fn is_all_in_hand(&self) -> bool {
        let before = self.leases.sequences();
        let Ok(stream) = self.nats.context.get_stream_no_info(&self.stream).await else { return false };
        let Ok(info) = stream.consumer_info(&self.consumer).await else { return false };
        let after = self.leases.sequences();
        let pending = info.num_ack_pending;
        // The window cannot hold it all, and nothing would ever begin.
        if after.len() >= self.credit && pending > self.credit {
            tracing::warn!(
                consumer = %self.consumer, pending, window = self.credit,
                "more is in flight than order.window, from before it was made smaller or the handler was ordered: these \
                 events may be handled out of order"
            );
            return true;
        }
        is_all_in_hand(pending as u64, info.delivered.stream_sequence, &before, &after)
    }
}
