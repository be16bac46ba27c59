//! What is wrong right now: said once when it begins and once when it is over, and shown by the status and by
//! readiness until then. Whoever meets a trouble goes on trying, and reports it each time it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tidemill_policy::history::millis;
use tokio::time::Instant;

/// How long results may go unstored before readiness is given up.
pub const HELD_MAX: Duration = Duration::from_secs(10);
/// A trouble that comes back before this is over is the same one, and is not said again before.
const REPEAT_AFTER: Duration = Duration::from_mins(1);
/// The most reasons that are said of one trouble.
const REASONS_MAX: usize = 8;
/// The most troubles that are kept; later ones are not.
const TROUBLES_MAX: usize = 256;

/// What a trouble keeps us from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Events do not arrive: not ready.
    Intake,
    /// Results cannot be stored, and their events are held: not ready after [`HELD_MAX`].
    Publishing,
    /// Nothing else: it is said and shown.
    None,
}

/// The troubles of one process, by what is in trouble.
#[derive(Debug, Default)]
pub struct Troubles {
    known: Mutex<BTreeMap<String, Record>>,
    /// How many are on, so that it costs nothing to end none.
    on: AtomicUsize,
}

#[derive(Debug)]
struct Record {
    effect: Effect,
    why: String,
    since: Instant,
    /// Whether it was said since then.
    spoken: bool,
    /// The reasons that were said, and when the last time was.
    said: BTreeSet<String>,
    said_at: Instant,
    over: Option<Instant>,
}

/// A trouble as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What is in trouble.
    pub what: String,
    /// What is wrong, and what helps.
    pub why: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Whether it takes readiness away.
    pub blocks_readiness: bool,
}

impl Troubles {
    /// Notes that `what` is in trouble; called again and again while it lasts. Each reason is said once.
    pub fn begin(&self, what: &str, effect: Effect, why: &str) {
        if self.note(what, effect, why) {
            tracing::warn!(trouble = what, "{why}");
        }
    }

    /// As [`Troubles::begin`], where whoever notes it says it. Returns whether it is to be said.
    pub fn note(&self, what: &str, effect: Effect, why: &str) -> bool {
        let now = Instant::now();
        let mut known = self.lock();
        if !known.contains_key(what) {
            known.retain(|_, record| record.over.is_none_or(|over| now - over < REPEAT_AFTER));
            if known.len() >= TROUBLES_MAX {
                return false;
            }
        }
        let record = known.entry(what.to_owned()).or_insert_with(|| Record::new(effect, now));
        if let Some(over) = record.over.take() {
            self.on.fetch_add(1, Ordering::Relaxed);
            (record.since, record.spoken) = (now, false);
            if now - over >= REPEAT_AFTER {
                record.said.clear();
            }
        }
        (record.effect, record.why) = (effect, why.to_owned());
        let is_new = record.said.len() < REASONS_MAX && !record.said.contains(why);
        let is_due = !record.spoken && now - record.said_at >= REPEAT_AFTER;
        if is_new || is_due {
            record.said.insert(why.to_owned());
            (record.said_at, record.spoken) = (now, true);
        }
        is_new || is_due
    }

    /// Notes that `what` works; called whenever it does.
    pub fn end(&self, what: &str) {
        if self.are_none() {
            return;
        }
        let mut known = self.lock();
        let Some(record) = known.get_mut(what).filter(|record| record.over.is_none()) else { return };
        record.over = Some(Instant::now());
        self.on.fetch_sub(1, Ordering::Relaxed);
        if record.spoken {
            tracing::info!(trouble = what, lasted_ms = millis(record.since.elapsed()), "this is over");
        }
    }

    /// Whether nothing is wrong.
    pub fn are_none(&self) -> bool {
        self.on.load(Ordering::Relaxed) == 0
    }

    /// What is wrong now.
    pub fn now(&self) -> Vec<Trouble> {
        if self.are_none() {
            return Vec::new();
        }
        let known = self.lock();
        let on = known.iter().filter(|(_, record)| record.over.is_none());
        let shown = on.map(|(what, record)| Trouble {
            what: what.clone(),
            why: record.why.clone(),
            for_ms: millis(record.since.elapsed()),
            blocks_readiness: record.blocks_readiness(),
        });
        shown.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// One that is over, for [`Troubles::begin`] to open.
    fn new(effect: Effect, now: Instant) -> Record {
        let (why, said) = (String::new(), BTreeSet::new());
        Record { effect, why, since: now, spoken: false, said, said_at: now, over: Some(now) }
    }

    fn blocks_readiness(&self) -> bool {
        match self.effect {
            Effect::Intake => true,
            Effect::Publishing => self.since.elapsed() >= HELD_MAX,
            Effect::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;
    use tracing::field::{Field, Visit};
    use tracing::subscriber::{DefaultGuard, Interest, NoSubscriber};
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    /// Keeps the messages that are logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    struct Message<'a>(&'a mut String);

    impl Visit for Message<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                *self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Log {
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut text = String::new();
            event.record(&mut Message(&mut text));
            self.0.lock().expect("not poisoned").push(format!("{} {text}", event.metadata().level()));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    impl Log {
        fn start() -> (Log, DefaultGuard) {
            // While there is one subscriber only, the thread that logs something first decides for all whether it is
            // heard, although it may be another test's.
            let _ = tracing::subscriber::set_global_default(NoSubscriber::default());
            let log = Log::default();
            (log.clone(), tracing::subscriber::set_default(log))
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().expect("not poisoned"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_is_said_once_and_its_end_once() {
        let (log, _guard) = Log::start();
        let troubles = Troubles::default();
        troubles.end("a");
        for _ in 0..100 {
            troubles.begin("a", Effect::Intake, "broken");
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(log.take(), ["WARN broken"]);
        troubles.begin("a", Effect::Intake, "broken otherwise");
        troubles.begin("a", Effect::Intake, "broken");
        assert_eq!(log.take(), ["WARN broken otherwise"]);
        let shown = Trouble { what: "a".into(), why: "broken".into(), for_ms: 500_000, blocks_readiness: true };
        assert_eq!(troubles.now(), [shown]);
        troubles.end("a");
        troubles.end("a");
        assert_eq!(log.take(), ["INFO this is over"]);
        assert!(troubles.are_none() && troubles.now().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_comes_and_goes_is_said_once_a_minute() {
        let (log, _guard) = Log::start();
        let troubles = Troubles::default();
        for _ in 0..50 {
            troubles.begin("a", Effect::Publishing, "full");
            troubles.end("a");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(log.take(), ["WARN full", "INFO this is over"]);
        // It stays this time: not said at once, but not kept quiet either.
        for _ in 0..30 {
            troubles.begin("a", Effect::Publishing, "full");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(log.take(), ["WARN full"]);
        troubles.end("a");
        assert_eq!(log.take(), ["INFO this is over"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_published_takes_readiness_away_after_a_while() {
        let troubles = Troubles::default();
        let blocks = || troubles.now().iter().any(|trouble| trouble.blocks_readiness);
        troubles.begin("noted", Effect::None, "x");
        troubles.begin("out", Effect::Publishing, "full");
        assert!(!blocks());
        advance(HELD_MAX).await;
        assert!(blocks());
        troubles.end("out");
        assert!(!blocks());
    }

    #[tokio::test(start_paused = true)]
    async fn troubles_and_reasons_are_bounded() {
        let (log, _guard) = Log::start();
        let troubles = Troubles::default();
        for n in 0..TROUBLES_MAX * 2 {
            troubles.begin(&format!("t{n}"), Effect::None, "x");
        }
        assert_eq!((troubles.now().len(), log.take().len()), (TROUBLES_MAX, TROUBLES_MAX));
        for n in 0..REASONS_MAX * 2 {
            troubles.begin("t0", Effect::None, &format!("reason {n}"));
        }
        assert_eq!(log.take().len(), REASONS_MAX - 1);
    }
}
