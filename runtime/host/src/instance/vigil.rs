//! What becomes of streams while an instance runs: somebody may edit them, and the server tells nobody. Ours are put right,
//! and what stands against the manifest is shown as a trouble.

use std::sync::Arc;

use tidemill_policy::manifest::Manifest;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::nats::streams::{self, StreamError};
use crate::broker::nats::{Nats, drift, preflight};
use crate::troubles::Effect;

/// What is in trouble where our own streams were changed.
const OWN: &str = "our own streams";
/// What is in trouble where the manifest does not go with a stream any more.
const FIT: &str = "settings of streams";

/// Looks at the streams about once a minute, until `stop`.
pub(super) async fn watch(nats: Arc<Nats>, manifest: watch::Receiver<Arc<Manifest>>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(drift::period())).await.is_some() {
        let manifest = Arc::clone(&manifest.borrow());
        if nats.link.is_up() && stop.run_until_cancelled(look(&nats, &manifest)).await.is_none() {
            return;
        }
    }
}

async fn look(nats: &Nats, manifest: &Manifest) {
    let troubles = &nats.link.troubles;
    match streams::keep(nats).await {
        Ok(said) if said.is_empty() => troubles.end(OWN),
        // It is logged already.
        Ok(said) => {
            let _ = troubles.note(OWN, Effect::None, &said.join("; "));
        }
        Err(error @ StreamError::Refused { .. }) => troubles.begin(OWN, Effect::None, &error.to_string()),
        // Who needs the server says that it does not answer.
        Err(_) => return,
    }
    match preflight::look_again(nats, manifest).await {
        Ok(conflicts) if conflicts.is_empty() => troubles.end(FIT),
        Ok(conflicts) => troubles.begin(FIT, Effect::None, &conflicts.join("; ")),
        Err(error) => tracing::debug!(%error, "could not look at the streams"),
    }
}
