//! A claim that is kept: others see that whoever has it lives.

use std::sync::Arc;
use std::time::Duration;

use tidemill_policy::marker::Marker;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::broker::{Broker, MarkerError};

/// Writes a marker again and again, until it is ended or dropped.
#[derive(Debug)]
pub(super) struct Claim {
    kept: Arc<Mutex<Kept>>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Kept {
    /// The marker's revision.
    revision: u64,
    /// When it was last written.
    since: Instant,
}

impl Claim {
    /// Keeps a marker that was written at `revision`, as long as nobody else replaces it.
    pub(super) fn keep<B: Broker>(
        broker: Arc<B>,
        key: Arc<str>,
        marker: Marker,
        lifetime: Duration,
        revision: u64,
        every: Duration,
    ) -> Claim {
        let kept = Arc::new(Mutex::new(Kept { revision, since: Instant::now() }));
        let of_task = Arc::clone(&kept);
        let task = async move {
            loop {
                sleep(every).await;
                let mut kept = of_task.lock().await;
                let since = Instant::now();
                match broker.remember(&key, &marker, lifetime, kept.revision).await {
                    Ok(revision) => *kept = Kept { revision, since },
                    // Whoever has the claim notices when it writes what has come of it.
                    Err(MarkerError::Conflict) => return,
                    Err(MarkerError::Unavailable(_)) => {}
                }
            }
        };
        Claim { kept, task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Whether it was written no longer ago than this, so that nobody can have taken it over.
    pub(super) fn is_recent(&self, age: Duration) -> bool {
        // While it is being written, that is not known.
        !self.task.is_finished() && self.kept.try_lock().is_ok_and(|kept| kept.since.elapsed() < age)
    }

    /// Ends it, and returns the marker's revision as far as it is known.
    pub(super) async fn end(self) -> u64 {
        self.task.abort();
        self.kept.lock().await.revision
    }
}
