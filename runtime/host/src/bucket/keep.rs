//! Keeping the copy in step with the bucket while an instance runs.
//!
//! Whoever changes an object publishes its description, which is heard by an ordinary subscription. That costs the server no
//! consumer, and what is missed, while the connection is away or where the bucket is itself a copy of another one, is found
//! by looking every now and then.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use futures::{StreamExt, future};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Changes, Mirror};
use crate::status::Status;

/// How seldom the bucket is looked at besides, at most.
const POLL_MIN: Duration = Duration::from_secs(5);
/// How long to wait after a change: it is heard before it is stored, and seldom comes alone.
const CHANGES_DELAY: Duration = Duration::from_millis(100);

/// Brings the copy up to date whenever something has changed, and every `poll` (at least five seconds), until `stop`.
pub async fn keep(mirror: Arc<Mirror>, poll: Duration, status: Arc<Status>, stop: CancellationToken) {
    let poll = poll.max(POLL_MIN);
    let mut changes = None;
    loop {
        if changes.is_none() {
            changes = mirror.changes().await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(poll) => {}
            is_open = next(&mut changes) => {
                sleep(CHANGES_DELAY).await;
                if is_open {
                    while next(&mut changes).now_or_never() == Some(true) {}
                } else {
                    changes = None;
                }
            }
        }
        if stop.run_until_cancelled(mirror.sync_and_tell(&status)).await.is_none() {
            return;
        }
        // The connection before lives as long as anybody listens.
        changes = changes.filter(|changes| mirror.is_current(changes));
    }
}

/// Waits for a change. Returns whether there may be another one.
async fn next(changes: &mut Option<Changes>) -> bool {
    match changes {
        Some(changes) => changes.heard.next().await.is_some(),
        None => future::pending().await,
    }
}
