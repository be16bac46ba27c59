//! `order` with `by = "latest"`.

use serde::Serialize;
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Handler, OnMissing, OnStale, Order, show_duration};

/// Which events count.
#[derive(Debug, Serialize)]
pub(super) struct LatestShown {
    by: &'static str,
    key: String,
    time: String,
    on_stale: &'static str,
    on_missing: &'static str,
    window_ms: u64,
    #[serde(skip)]
    shown: String,
}

impl LatestShown {
    pub(super) fn of(handler: &Handler) -> Option<LatestShown> {
        let Some(Order::Latest(latest)) = &handler.order else { return None };
        let stale = match latest.on_stale {
            OnStale::Discard => "discarded and counted",
            OnStale::DeadLetter => "dead-lettered",
        };
        let missing = match latest.on_missing {
            OnMissing::DeadLetter => "goes to the dead letters",
            OnMissing::Run => "is run without order",
        };
        let (key, time) = (&latest.key, &latest.time);
        let window = show_duration(latest.window);
        Some(LatestShown {
            by: "latest",
            key: key.to_string(),
            time: time.to_string(),
            on_stale: latest.on_stale.name(),
            on_missing: latest.on_missing.name(),
            window_ms: millis(latest.window),
            shown: format!(
                "the latest for each {key} by its time ({time}), remembered for {window}; what is older is {stale}\n\
                 an event without them {missing}"
            ),
        })
    }

    pub(super) fn text(&self) -> String {
        self.shown.clone()
    }
}

/// Whether events that are too old go to the dead letters.
pub(super) fn keeps_stale(handler: &Handler) -> bool {
    matches!(&handler.order, Some(Order::Latest(latest)) if latest.on_stale == OnStale::DeadLetter)
}
