//! What a handler is sure of of the memory that all handlers have together.

use serde::Serialize;
use tidemill::machine;
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::share::memory::sure;

use crate::cli::check::approximate;

/// What is in `explain`.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the unit comes last")]
pub(super) struct Explanation {
    /// What all handlers have together.
    all_bytes: u64,
    /// What the handler may ask for at most.
    need_bytes: u64,
    /// What is kept for it.
    sure_bytes: u64,
}

pub(super) fn explain(manifest: &Manifest, handler: &Handler) -> Explanation {
    let all_bytes = manifest.runtime.memory_bytes.unwrap_or_else(machine::memory_for_guests);
    let needs: Vec<_> = manifest.handlers.values().map(Handler::memory_need_bytes).collect();
    let mut shares = manifest.handlers.keys().zip(sure(&needs, all_bytes));
    let sure_bytes = shares.find(|(name, _)| **name == handler.name).map_or(0, |(_, sure)| sure);
    Explanation { all_bytes, need_bytes: handler.memory_need_bytes(), sure_bytes }
}

pub(super) fn text(explanation: &Explanation) -> String {
    let Explanation { all_bytes, need_bytes, sure_bytes } = *explanation;
    let (all, need, sure) = (approximate(all_bytes), approximate(need_bytes), approximate(sure_bytes));
    if sure_bytes >= need_bytes {
        return format!("its {need} at most are kept for it, of the {all} in each process (runtime.memory)");
    }
    format!(
        "{sure} are kept for it, of the {all} that all handlers have in each process (runtime.memory)\n\
         up to {need} while it is free; an attempt that asks for more than there is fails with memory"
    )
}
