//! What is printed at the end: the summary, the checks, and the dead letters with their histories.

mod letters;

use std::collections::BTreeMap;

use ratatui::text::{Line, Span};

use crate::checks::Check;
use crate::events::OUTPUTS;
use crate::run::Run;
use crate::text::{count, duration, micros, plural};
use crate::view::{Theme, WIDTH_MAX};

/// All lines of the report.
pub(crate) fn lines(run: &Run, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default(), heading("Summary", theme)];
    lines.extend(summary(run, theme));
    lines.extend([Line::default(), heading("Checks", theme)]);
    lines.extend(run.checks.iter().map(|check| verdict(check, theme)));
    lines.extend([Line::default(), heading("Dead letters", theme)]);
    lines.extend(letters::lines(&run.ledger.dead_letters, theme));
    lines.extend([Line::default(), last_word(&run.checks, theme)]);
    lines
}

/// A title.
pub(crate) fn heading(text: &'static str, theme: Theme) -> Line<'static> {
    Line::from(Span::styled(text, theme.heading().patch(theme.accent())))
}

fn summary(run: &Run, theme: Theme) -> Vec<Line<'static>> {
    let inputs = run.ledger.inputs.iter().map(|(subject, found)| format!("{} {subject}", count(*found)));
    let outputs = OUTPUTS.map(|(subject, _, _)| format!("{} {subject}", count(run.ledger.outputs[subject].len())));
    let oddities = run.expected.oddities.iter().map(|(oddity, found)| format!("{} {oddity}", count(*found)));
    let retries: u64 = run.status.handlers.values().map(|handler| handler.retried).sum();
    let mut lines = Vec::new();
    lines.extend(entry("events in", inputs, theme));
    lines.extend(entry("odd ones", oddities, theme));
    lines.extend(entry("outputs", outputs, theme));
    lines.extend(entry("retries", [count(retries)], theme));
    lines.extend(entry("dead letters", reasons(run), theme));
    lines.extend(entry("times", times(run), theme));
    lines.extend(handlers(run, theme));
    lines
}

/// The dead letters by reason.
fn reasons(run: &Run) -> Vec<String> {
    let mut reasons = BTreeMap::<&str, usize>::new();
    for letter in &run.ledger.dead_letters {
        *reasons.entry(&letter.reason).or_default() += 1;
    }
    reasons.into_iter().map(|(reason, found)| format!("{} {reason}", count(found))).collect()
}

fn times(run: &Run) -> Vec<String> {
    let times = run.times;
    let (ends, took) = times.at_once;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "shown only"
    )]
    let rate = (ends as f64 / took.as_secs_f64().max(1e-3)) as u64;
    vec![
        format!("published in {}", duration(times.published)),
        format!("{} settled in {}, {} a second", count(ends), duration(took), count(rate)),
        format!("the last retry after {}", duration(times.settled)),
    ]
}

/// What each handler did. The latencies are from delivery to settlement, waiting for a free slot included.
fn handlers(run: &Run, theme: Theme) -> Vec<Line<'static>> {
    let names = std::iter::once("handlers").chain(std::iter::repeat(""));
    let rows = run.status.handlers.iter().zip(names).map(|((name, done), title)| {
        let row = format!(
            "{name:14}  {:>5} handled  {:>3} retried  {:>2} dead-lettered  p50 {:>6}  p99 {:>6}",
            count(done.handled),
            count(done.retried),
            count(done.dead_lettered),
            micros(done.p50_us),
            micros(done.p99_us)
        );
        titled(title, row, theme)
    });
    rows.collect()
}

/// A line with a title before it.
pub(crate) fn titled(title: &str, text: String, theme: Theme) -> Line<'static> {
    Line::from(vec![Span::styled(format!("  {title:14}"), theme.faint()), Span::raw(text)])
}

/// A name and what there is to say, in as many lines as it takes.
fn entry(name: &'static str, items: impl IntoIterator<Item = String>, theme: Theme) -> Vec<Line<'static>> {
    const INDENT: usize = 16;
    let mut rows = vec![String::new()];
    for item in items {
        let last = rows.last_mut().expect("never empty");
        if last.is_empty() {
            *last = item;
        } else if INDENT + last.chars().count() + 3 + item.chars().count() <= usize::from(WIDTH_MAX) {
            *last = format!("{last} · {item}");
        } else {
            rows.push(item);
        }
    }
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    rows.into_iter().zip(names).map(|(row, name)| titled(name, row, theme)).collect()
}

/// A check and whether it holds.
pub(crate) fn verdict(check: &Check, theme: Theme) -> Line<'static> {
    let (mark, style) = if check.holds { ("✓", theme.good()) } else { ("✗", theme.bad().patch(theme.heading())) };
    Line::from(vec![
        Span::styled(format!("  {mark} {:28}", check.name), style),
        Span::styled(check.figures.clone(), if check.holds { theme.faint() } else { theme.bad() }),
    ])
}

/// Whether all checks hold.
pub(crate) fn last_word(checks: &[Check], theme: Theme) -> Line<'static> {
    let violated = checks.iter().filter(|check| !check.holds).count();
    if violated == 0 {
        let text = format!("All {} checks hold.", checks.len());
        return Line::from(Span::styled(text, theme.good().patch(theme.heading())));
    }
    let text = format!("{} of {} violated.", violated, plural(checks.len(), "check"));
    Line::from(Span::styled(text, theme.bad().patch(theme.heading())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checks::{self, tests as sample};
    use crate::run::Times;
    use crate::{events, expect};

    fn report(spoil: bool) -> String {
        let expected = expect::expect(&events::all());
        let (mut ledger, status) = sample::perfect(&expected);
        ledger.retries_waiting = u64::from(spoil);
        let times = Times {
            published: Duration::from_millis(90),
            at_once: (6_961, Duration::from_millis(1_100)),
            settled: Duration::from_millis(3_650),
        };
        let checks = checks::all(&expected, &ledger, &status, sample::ended());
        let run = Run { expected, ledger, status, times, checks };
        let lines: Vec<_> =
            lines(&run, Theme::Plain).iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        assert!(lines.iter().all(|line| line.chars().count() <= usize::from(WIDTH_MAX)));
        lines.join("\n")
    }

    #[test]
    fn the_report_of_a_perfect_run() {
        let expected = "
Summary
  events in     3,000 order.placed · 1,000 registration.welcome_email
  odd ones      1 fails every time · 30 fails twice, then passes · 5 malformed · 1 never ends
                2 rejected · 1 takes all memory
  outputs       2,994 order.priced · 2,993 loyalty.awarded · 997 mail.sent
  retries       68
  dead letters  1 fuel · 1 memory · 7 reject · 1 retry
  times         published in 90 ms · 6,961 settled in 1.1 s, 6,328 a second
                the last retry after 3.6 s
  handlers      loyalty-points  2,993 handled   44 retried   1 dead-lettered  p50 740 µs  p99 4.2 ms
                order-pricing   2,994 handled    4 retried   6 dead-lettered  p50 740 µs  p99 4.2 ms
                welcome-email     997 handled   20 retried   3 dead-lettered  p50 740 µs  p99 4.2 ms

Checks
  ✓ nothing lost                4,000 in = 3,991 handled + 9 dead-lettered
  ✓ nothing lost in the chain   2,994 priced = 2,993 with points + 1 dead-lettered
  ✓ no output twice             6,984 outputs, 6,984 different
  ✓ every output right          6,984 with the right total, points or address
  ✓ every retry made            68 of 68
  ✓ every dead letter right     10 of 10 with the right reason and attempts
  ✓ every history whole         18 errors in 10 dead letters, payloads kept
  ✓ nothing left over           0 retries waiting, 0 messages unsettled
  ✓ drained and ended           12 ms after SIGINT, exit status: 0
";
        let report = report(false);
        let end = report.find("\nDead letters").expect("the heading");
        assert_eq!(&report[..end], expected);
        assert!(report.ends_with("\nAll 9 checks hold."));
    }

    #[test]
    fn what_is_violated_is_marked() {
        let report = report(true);
        assert!(report.contains("  ✗ nothing left over           1 retries waiting, 0 messages unsettled"), "{report}");
        assert!(report.ends_with("\n1 of 9 checks violated."));
    }
}
