//! How many bytes of messages may be in flight, in the whole process and for one handler.

use serde::Serialize;
use tidemill_policy::in_flight::{self, PAYLOAD_MAX_DEFAULT};
use tidemill_policy::manifest::{Handler, Manifest};

use crate::cli::check::approximate;

/// The bounds in bytes, on a server with the usual `max_payload`.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    /// Of the whole process.
    #[serde(rename = "bound_bytes")]
    bound: u64,
    /// What is kept for this handler.
    #[serde(rename = "share_bytes")]
    share: u64,
    /// What all handlers may use on top.
    #[serde(rename = "pool_bytes")]
    pool: u64,
    /// Outputs of this handler's running events, which come on top.
    #[serde(rename = "outputs_bytes")]
    outputs: u64,
}

pub(super) fn explain(manifest: &Manifest, handler: &Handler) -> Explanation {
    let division = in_flight::division(manifest, PAYLOAD_MAX_DEFAULT);
    Explanation {
        bound: division.bound(),
        share: division.share * in_flight::consumers(handler),
        pool: division.pool,
        outputs: in_flight::outputs_bound([handler]),
    }
}

impl Explanation {
    pub(super) fn text(&self) -> String {
        format!(
            "messages of up to {} in the whole process, where the server's max_payload is 1MiB\n{} of it for this handler \
             alone, {} for all; its outputs come on top, up to {}",
            approximate(self.bound),
            approximate(self.share),
            approximate(self.pool),
            approximate(self.outputs)
        )
    }
}
