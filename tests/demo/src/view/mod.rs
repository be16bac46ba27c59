//! How the run is shown while it goes on: drawn in place on a terminal, a line each second elsewhere.

mod live;
mod plain;
mod theme;

use std::io::IsTerminal;
use std::time::Duration;

use crate::expect::Expected;
use crate::status::{HandlerStatus, Status};
use crate::text::{count, plural};

pub(crate) use theme::{Theme, print};

/// The widest that anything is drawn.
pub(crate) const WIDTH_MAX: u16 = 100;

/// What is shown at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// How long the demo has been running.
    pub(crate) elapsed: Duration,
    /// What is going on.
    pub(crate) phase: String,
    /// How many events are published in all.
    pub(crate) events: usize,
    /// How many of them are odd.
    pub(crate) odd: usize,
    /// How often handlers are done with an event.
    pub(crate) ends: u64,
    /// How often they must be.
    pub(crate) ends_wanted: u64,
    /// The handlers.
    pub(crate) rows: Vec<Row>,
}

/// One handler.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: &'static str,
    /// Events that it must be done with.
    pub(crate) ends_wanted: u64,
    /// What it did.
    pub(crate) status: HandlerStatus,
}

impl Scene {
    /// The scene of a status.
    pub(crate) fn new(expected: &Expected, status: &Status, phase: String, elapsed: Duration) -> Scene {
        let row = |name| Row { name, ends_wanted: expected.handlers[name].ends(), status: status.of(name) };
        Scene {
            elapsed,
            phase,
            events: expected.events,
            odd: expected.odd(),
            ends: status.ends(),
            ends_wanted: expected.ends(),
            rows: expected.handlers.keys().map(|name| row(*name)).collect(),
        }
    }

    /// How much of the work is done, from 0 to 1.
    fn done(&self) -> f64 {
        share(self.ends, self.ends_wanted)
    }

    /// How much of it is done in whole percent, rounded down.
    fn percent(&self) -> u64 {
        (self.ends * 100 / self.ends_wanted.max(1)).min(100)
    }
}

/// What is going on while events are published and handled.
pub(crate) fn phase(expected: &Expected, status: &Status, confirmed: u64) -> String {
    if confirmed < expected.events as u64 {
        return format!("publishing, {} of {} events confirmed", count(confirmed), count(expected.events));
    }
    let (ends, wanted) = (status.ends(), expected.ends());
    if ends >= wanted {
        return "everything is settled".to_owned();
    }
    if ends < expected.at_once() {
        return format!("all {} events are published, the handlers are catching up", count(expected.events));
    }
    let left = usize::try_from(wanted - ends).unwrap_or(usize::MAX);
    format!("{} left to retry, held back by NATS until due", plural(left, "event"))
}

#[allow(clippy::cast_precision_loss, reason = "far below the 52 bits that are exact")]
fn share(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64).min(1.0)
}

/// Where the scenes are shown.
pub(crate) enum View {
    /// Drawn in place.
    Live(Box<live::Live>),
    /// A line each second.
    Plain(plain::Plain),
}

impl View {
    /// Live on a terminal that can be drawn on, else plain.
    pub(crate) fn open(theme: Theme) -> View {
        let live = std::io::stdout().is_terminal().then(|| live::Live::open(theme).ok()).flatten();
        live.map_or_else(|| View::Plain(plain::Plain::default()), |live| View::Live(Box::new(live)))
    }

    /// Shows a scene.
    pub(crate) fn show(&mut self, scene: &Scene) -> std::io::Result<()> {
        match self {
            View::Live(live) => live.show(scene),
            View::Plain(plain) => plain.show(scene),
        }
    }

    /// Shows the last scene, which stays.
    pub(crate) fn close(self, scene: &Scene) -> std::io::Result<()> {
        match self {
            View::Live(mut live) => live.show(scene),
            View::Plain(_) => plain::print(scene),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{events, expect};

    /// A status in the middle of a run.
    pub(crate) fn midway() -> Status {
        let handler = |handled, retried, dead_lettered, p99_us| HandlerStatus {
            in_flight: 8,
            handled,
            retried,
            dead_lettered,
            p50_us: 740,
            p99_us,
        };
        let handlers = [
            (events::ORDER_PRICING, handler(1_497, 4, 3, 312_000)),
            (events::LOYALTY_POINTS, handler(900, 12, 0, 4_200)),
            (events::WELCOME_EMAIL, handler(490, 9, 2, 2_150)),
        ];
        Status { handlers: handlers.map(|(name, status)| (name.to_owned(), status)).into() }
    }

    pub(crate) fn scene() -> Scene {
        let expected = expect::expect(&events::all());
        let phase = phase(&expected, &midway(), 2_310);
        Scene::new(&expected, &midway(), phase, Duration::from_millis(4_210))
    }

    #[test]
    fn the_phase_says_what_is_waited_for() {
        let expected = expect::expect(&events::all());
        let mut status = midway();
        assert_eq!(phase(&expected, &status, 4_000), "all 4,000 events are published, the handlers are catching up");
        for (name, tally) in &expected.handlers {
            let handler = status.handlers.get_mut(*name).expect("a known handler");
            (handler.handled, handler.dead_lettered) = (tally.handled, tally.dead_lettered);
        }
        assert_eq!(phase(&expected, &status, 4_000), "everything is settled");
        status.handlers.get_mut(events::WELCOME_EMAIL).expect("a known handler").handled -= 3;
        assert_eq!(phase(&expected, &status, 4_000), "3 events left to retry, held back by NATS until due");
    }
}
