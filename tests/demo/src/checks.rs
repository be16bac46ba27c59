//! Compares what came out with what must come out. Pure: the figures come from the streams, and from the
//! instance's own counters where the streams keep no trace.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::events::{LOYALTY_POINTS, OUTPUTS};
use crate::expect::{Dead, Expected};
use crate::host::Ended;
use crate::ledger::{DeadLetter, Ledger};
use crate::status::Status;
use crate::text::{count, duration, plural};

/// One thing that must hold, and whether it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// Whether it holds.
    pub(crate) holds: bool,
    /// What must hold.
    pub(crate) name: &'static str,
    /// The figures that show it.
    pub(crate) figures: String,
}

impl Check {
    /// A check by this name.
    pub(crate) fn new(holds: bool, name: &'static str, figures: String) -> Check {
        Check { holds, name, figures }
    }
}

/// Checks everything.
pub(crate) fn all(expected: &Expected, ledger: &Ledger, status: &Status, ended: Ended) -> Vec<Check> {
    vec![
        nothing_lost(expected, ledger),
        nothing_lost_in_the_chain(ledger),
        no_output_twice(ledger),
        outputs_right(expected, ledger),
        retries_made(expected, status),
        dead_letters_right(expected, ledger),
        histories_whole(expected, ledger),
        nothing_left(ledger),
        drained(ended),
    ]
}

/// Of what was published, every event became an output or a dead letter.
fn nothing_lost(expected: &Expected, ledger: &Ledger) -> Check {
    let published: usize = ledger.inputs.values().sum();
    let handled = outputs(ledger, "order.priced") + outputs(ledger, "mail.sent");
    let dead = ledger.dead_letters.iter().filter(|letter| letter.handler != LOYALTY_POINTS).count();
    let figures = format!("{} in = {} handled + {} dead-lettered", count(published), count(handled), count(dead));
    Check::new(published == expected.events && published == handled + dead, "nothing lost", figures)
}

/// The same for the second handler of the chain.
fn nothing_lost_in_the_chain(ledger: &Ledger) -> Check {
    let priced = outputs(ledger, "order.priced");
    let awarded = outputs(ledger, "loyalty.awarded");
    let dead = ledger.dead_letters.iter().filter(|letter| letter.handler == LOYALTY_POINTS).count();
    let figures = format!("{} priced = {} with points + {} dead-lettered", count(priced), count(awarded), count(dead));
    Check::new(priced == awarded + dead, "nothing lost in the chain", figures)
}

/// No output is stored twice, although some handlers ran several times for the same event.
fn no_output_twice(ledger: &Ledger) -> Check {
    let all: usize = ledger.outputs.values().map(Vec::len).sum();
    let different: usize = ledger.outputs.values().map(|keys| keys.iter().collect::<BTreeSet<_>>().len()).sum();
    let figures = format!("{} outputs, {} different", count(all), count(different));
    Check::new(all == different, "no output twice", figures)
}

/// Each output is one that must come out, with the right total, points or address.
fn outputs_right(expected: &Expected, ledger: &Ledger) -> Check {
    let (mut right, mut wrong, mut missing) = (0, 0, 0);
    for (subject, _, _) in OUTPUTS {
        let found: BTreeSet<_> = ledger.outputs.get(subject).into_iter().flatten().collect();
        let wanted: BTreeSet<_> = expected.outputs.get(subject).into_iter().flatten().collect();
        right += wanted.intersection(&found).count();
        wrong += found.difference(&wanted).count();
        missing += wanted.difference(&found).count();
    }
    let right = format!("{} with the right total, points or address", count(right));
    let figures = match wrong + missing {
        0 => right,
        _ => format!("{right}, {} wrong, {} missing", count(wrong), count(missing)),
    };
    Check::new(wrong + missing == 0, "every output right", figures)
}

/// Every handler was tried again as often as its policy says, and no more.
fn retries_made(expected: &Expected, status: &Status) -> Check {
    let wanted: u64 = expected.handlers.values().map(|tally| tally.retried).sum();
    let made: u64 = status.handlers.values().map(|handler| handler.retried).sum();
    let each = expected.handlers.iter().all(|(name, tally)| status.of(name).retried == tally.retried);
    Check::new(each, "every retry made", format!("{} of {}", count(made), count(wanted)))
}

/// The dead letters are those that must be, each for the right reason after the right number of attempts.
fn dead_letters_right(expected: &Expected, ledger: &Ledger) -> Check {
    let right = ledger.dead_letters.iter().filter(|letter| is_right(expected, letter)).count();
    let (found, wanted) = (ledger.dead_letters.len(), expected.dead_letters.len());
    let figures = format!("{} of {} with the right reason and attempts", count(right), count(found));
    Check::new(right == found && found == wanted, "every dead letter right", figures)
}

fn is_right(expected: &Expected, letter: &DeadLetter) -> bool {
    expected_of(expected, letter).is_some_and(|dead| {
        dead.attempts == letter.attempts && dead.reasons.iter().any(|kind| kind.to_string() == letter.reason)
    })
}

fn expected_of<'a>(expected: &'a Expected, letter: &DeadLetter) -> Option<&'a Dead> {
    expected.dead_letters.get(&(letter.handler.clone(), letter.event.clone()))
}

/// Each dead letter holds an error for every attempt, in order, and the payload as it was published.
fn histories_whole(expected: &Expected, ledger: &Ledger) -> Check {
    let whole = |letter: &&DeadLetter| {
        let attempts = letter.errors.iter().map(|error| error.attempt);
        attempts.eq(1..=letter.attempts)
            && expected_of(expected, letter).is_some_and(|dead| match &dead.payload {
                Some(published) => is_kept(published, &letter.payload),
                None => true,
            })
    };
    let letters = ledger.dead_letters.iter().filter(whole).count();
    let errors = ledger.dead_letters.iter().map(|letter| letter.errors.len()).sum::<usize>();
    let figures = format!("{} errors in {}, payloads kept", count(errors), plural(letters, "dead letter"));
    Check::new(letters == ledger.dead_letters.len(), "every history whole", figures)
}

/// Whether a payload is as it was published; a queue message has the errors appended as its last member.
fn is_kept(published: &str, payload: &str) -> bool {
    let start = published.strip_suffix('}').unwrap_or(published);
    payload == published || payload.strip_prefix(start).is_some_and(|rest| rest.starts_with(",\"error\":["))
}

/// Nothing waits any more.
fn nothing_left(ledger: &Ledger) -> Check {
    let Ledger { retries_waiting, unsettled, .. } = *ledger;
    let figures = format!("{retries_waiting} retries waiting, {unsettled} messages unsettled");
    Check::new(retries_waiting == 0 && unsettled == 0, "nothing left over", figures)
}

/// The process ended when it was asked to, with success.
fn drained(ended: Ended) -> Check {
    let figures = format!("{} after SIGINT, {}", duration(ended.took), ended.status);
    Check::new(ended.status.success() && ended.took < Duration::from_secs(30), "drained and ended", figures)
}

fn outputs(ledger: &Ledger, subject: &str) -> usize {
    ledger.outputs.get(subject).map_or(0, Vec::len)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::ExitStatus;

    use tidemill_policy::history::{AttemptError, Kind};

    use super::*;
    use crate::status::HandlerStatus;
    use crate::{events, expect};

    pub(crate) fn ended() -> Ended {
        Ended { status: ExitStatus::default(), took: Duration::from_millis(12) }
    }

    /// What a run leaves behind in which everything went as it must.
    pub(crate) fn perfect(expected: &Expected) -> (Ledger, Status) {
        let letters = expected.dead_letters.iter().map(|((handler, event), dead)| DeadLetter {
            handler: handler.clone(),
            subject: "order.placed".to_owned(),
            event: event.clone(),
            reason: dead.reasons[0].to_string(),
            attempts: dead.attempts,
            errors: (1..=dead.attempts).map(|attempt| error(attempt, dead.reasons[0])).collect(),
            payload: dead.payload.clone().unwrap_or_default(),
        });
        let outputs = expected.outputs.iter().map(|(subject, keys)| (*subject, keys.iter().cloned().collect()));
        let inputs = [("order.placed", 3_000), ("registration.welcome_email", 1_000)];
        let ledger = Ledger {
            inputs: inputs.into(),
            outputs: outputs.collect(),
            dead_letters: letters.collect(),
            ..Ledger::default()
        };
        let handler = |tally: &expect::Tally| HandlerStatus {
            handled: tally.handled,
            retried: tally.retried,
            dead_lettered: tally.dead_lettered,
            p50_us: 740,
            p99_us: 4_200,
            ..HandlerStatus::default()
        };
        let handlers = expected.handlers.iter().map(|(name, tally)| ((*name).to_owned(), handler(tally)));
        (ledger, Status { handlers: handlers.collect() })
    }

    pub(crate) fn error(attempt: u32, kind: Kind) -> AttemptError {
        AttemptError {
            date: format!("2026-11-21T08:00:0{attempt}.250Z"),
            attempt,
            kind,
            status_code: None,
            message: "something went wrong".to_owned(),
            stack_trace: None,
            handler: String::new(),
            component: String::new(),
            instance: String::new(),
            duration_ms: 7,
            fuel_used: 0,
            memory_peak: 0,
        }
    }

    /// The names of the checks that a change of a perfect run violates.
    fn violated(change: impl FnOnce(&mut Ledger, &mut Status)) -> Vec<&'static str> {
        let expected = expect::expect(&events::all());
        let (mut ledger, mut status) = perfect(&expected);
        change(&mut ledger, &mut status);
        let checks = all(&expected, &ledger, &status, ended());
        checks.into_iter().filter(|check| !check.holds).map(|check| check.name).collect()
    }

    fn outputs_on<'a>(ledger: &'a mut Ledger, subject: &str) -> &'a mut Vec<String> {
        ledger.outputs.get_mut(subject).expect("a known subject")
    }

    #[test]
    fn a_perfect_run_passes() {
        assert_eq!(violated(|_, _| {}), Vec::<&str>::new());
    }

    #[test]
    fn what_is_lost_is_noticed() {
        let lost = violated(|ledger, _| drop(outputs_on(ledger, "mail.sent").pop()));
        assert_eq!(lost, ["nothing lost", "every output right"]);
        let lost = violated(|ledger, _| drop(outputs_on(ledger, "loyalty.awarded").pop()));
        assert_eq!(lost, ["nothing lost in the chain", "every output right"]);
        let lost = violated(|ledger, _| ledger.dead_letters.retain(|letter| letter.event != "o-1000"));
        assert_eq!(lost, ["nothing lost", "every dead letter right"]);
    }

    #[test]
    fn what_comes_twice_or_wrong_is_noticed() {
        let twice = violated(|ledger, _| {
            let outputs = outputs_on(ledger, "loyalty.awarded");
            outputs.push(outputs[0].clone());
        });
        assert_eq!(twice, ["nothing lost in the chain", "no output twice"]);
        let wrong = violated(|ledger, _| outputs_on(ledger, "order.priced")[7] = "o-0008 1".to_owned());
        assert_eq!(wrong, ["every output right"]);
    }

    #[test]
    fn dead_letters_are_looked_at_closely() {
        let first = |change: fn(&mut DeadLetter)| violated(|ledger, _| change(&mut ledger.dead_letters[1]));
        assert_eq!(first(|letter| letter.reason = "trap".to_owned()), ["every dead letter right"]);
        assert_eq!(first(|letter| drop(letter.errors.pop())), ["every history whole"]);
        assert_eq!(first(|letter| letter.payload.push(' ')), ["every history whole"]);
        let unexpected = violated(|ledger, _| ledger.dead_letters.push(ledger.dead_letters[0].clone()));
        assert_eq!(unexpected.last(), Some(&"every dead letter right"));
    }

    #[test]
    fn what_is_left_over_is_noticed() {
        assert_eq!(violated(|ledger, _| ledger.retries_waiting = 1), ["nothing left over"]);
        assert_eq!(violated(|ledger, _| ledger.unsettled = 1), ["nothing left over"]);
        let retried = |status: &mut Status| status.handlers.values_mut().for_each(|handler| handler.retried += 1);
        assert_eq!(violated(|_, status| retried(status)), ["every retry made"]);
    }

    #[test]
    fn a_queue_message_is_kept_with_its_errors() {
        assert!(is_kept(r#"{"a":1}"#, r#"{"a":1}"#));
        assert!(is_kept(r#"{"a":1}"#, r#"{"a":1,"error":[{}]}"#));
        assert!(!is_kept(r#"{"a":1}"#, r#"{"a":2,"error":[{}]}"#));
        assert!(!is_kept("half of {", "half of"));
    }
}
