//! The dead letters for people: who gave up on what and why, and each attempt with where it went wrong.

use ratatui::text::{Line, Span};
use tidemill_policy::history::AttemptError;

use crate::ledger::DeadLetter;
use crate::text::plural;
use crate::view::{Theme, WIDTH_MAX};

/// How many frames of a backtrace are shown.
const FRAMES_MAX: usize = 8;
/// Where the message of an attempt begins.
const INDENT: usize = 42;
/// Where the frames of a backtrace begin.
const TRACE_INDENT: usize = 22;

/// A block of lines for each dead letter.
pub(super) fn lines(letters: &[DeadLetter], theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (place, letter) in letters.iter().enumerate() {
        if place > 0 {
            lines.push(Line::default());
        }
        lines.push(title(letter, theme));
        let mut previous = None;
        for error in &letter.errors {
            lines.extend(attempt(error, previous, theme));
            previous = Some(error);
        }
    }
    lines
}

fn title(letter: &DeadLetter, theme: Theme) -> Line<'static> {
    let after = format!(" after {}", plural(letter.attempts as usize, "attempt"));
    Line::from(vec![
        Span::styled(format!("  {}", letter.handler), theme.heading()),
        Span::raw(format!("  {} on {}  ", letter.event, letter.subject)),
        Span::styled(letter.reason.clone(), theme.bad()),
        Span::styled(after, theme.faint()),
    ])
}

/// The lines of one attempt. What is the same as at the attempt before is not repeated.
fn attempt(error: &AttemptError, previous: Option<&AttemptError>, theme: Theme) -> Vec<Line<'static>> {
    let code = error.status_code.map_or_else(String::new, |code| format!(" ({code})"));
    let message = match previous {
        Some(previous) if (&previous.message, previous.status_code) == (&error.message, error.status_code) => {
            "the same".to_owned()
        }
        _ => format!("{}{code}", error.message),
    };
    let mut messages = wrap(&message, usize::from(WIDTH_MAX) - INDENT).into_iter();
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("    {:>2}. {}  ", error.attempt, time_of_day(&error.date)), theme.faint()),
        Span::styled(format!("{:<11}", error.kind.to_string()), theme.notable()),
        Span::styled(format!("{:>4} ms  ", error.duration_ms), theme.faint()),
        Span::raw(messages.next().unwrap_or_default()),
    ])];
    lines.extend(messages.map(|rest| Line::from(Span::raw(format!("{:INDENT$}{rest}", "")))));
    if previous.is_none_or(|previous| previous.stack_trace != error.stack_trace) {
        lines.extend(trace(error.stack_trace.as_deref().unwrap_or_default(), theme));
    }
    lines
}

/// The first frames of a backtrace.
fn trace(trace: &str, theme: Theme) -> Vec<Line<'static>> {
    let faint = |text: String| Line::from(Span::styled(format!("{:TRACE_INDENT$}{text}", ""), theme.faint()));
    let room = usize::from(WIDTH_MAX) - TRACE_INDENT;
    let mut frames = trace.lines().map(str::trim).filter(|line| !line.is_empty());
    let shown = frames.by_ref().take(FRAMES_MAX).map(|frame| faint(shorten(function(frame), room)));
    let mut lines: Vec<_> = shown.collect();
    let more = frames.count();
    if more > 0 {
        lines.push(faint(format!("… and {} more", plural(more, "frame"))));
    }
    lines
}

/// The function of a frame, without the file and the place in it.
fn function(frame: &str) -> &str {
    frame.rsplit_once(" (").map_or(frame, |(function, _)| function)
}

/// Cuts a text that is longer than `width` characters, and says so.
fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The time of an RFC 3339 date, as far as it has one.
fn time_of_day(date: &str) -> &str {
    date.split_once('T').map_or(date, |(_, time)| time.trim_end_matches('Z'))
}

/// Cuts a text into lines of at most `width` characters, between words where it can.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("never empty");
        let room = width.saturating_sub(last.chars().count() + usize::from(!last.is_empty()));
        if word.chars().count() <= room {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
            continue;
        }
        let mut rest = word.chars().peekable();
        while rest.peek().is_some() {
            lines.push(rest.by_ref().take(width).collect());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use tidemill_policy::history::Kind;

    use super::*;
    use crate::checks::tests::error;

    #[test]
    fn a_letter_tells_its_whole_story() {
        let trace = "order_pricing::misbehave::forever (order_pricing.wasm) at 0x6fe0\nhandle (x.wasm) at 0x1";
        let failed = |attempt| AttemptError { stack_trace: Some(trace.to_owned()), ..error(attempt, Kind::Fuel) };
        let long = "the last one is told in so many words that they do not fit into a single line".to_owned();
        let last = AttemptError { message: long, status_code: Some(503), ..error(3, Kind::Retry) };
        let letter = DeadLetter {
            handler: "order-pricing".to_owned(),
            subject: "order.placed".to_owned(),
            event: "o-1000".to_owned(),
            reason: "fuel".to_owned(),
            attempts: 3,
            errors: vec![failed(1), failed(2), last],
            payload: String::new(),
        };
        let expected = "  order-pricing  o-1000 on order.placed  fuel after 3 attempts
     1. 08:00:01.250  fuel          7 ms  something went wrong
                      order_pricing::misbehave::forever
                      handle
     2. 08:00:02.250  fuel          7 ms  the same
     3. 08:00:03.250  retry         7 ms  the last one is told in so many words that they do not fit
                                          into a single line (503)";
        let shown: Vec<_> = lines(&[letter], Theme::Plain).iter().map(ToString::to_string).collect();
        assert!(shown.iter().all(|line| line.chars().count() <= usize::from(WIDTH_MAX)));
        assert_eq!(shown.join("\n"), expected);
    }

    #[test]
    fn long_traces_are_cut() {
        let long = "f (a.wasm) at 0x1\n".repeat(FRAMES_MAX + 2);
        let shown: Vec<_> = trace(&long, Theme::Plain).iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), FRAMES_MAX + 1);
        assert_eq!(shown[FRAMES_MAX].trim(), "… and 2 frames more");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }

    #[test]
    fn text_is_cut_between_words() {
        for (text, expected) in [
            ("", vec![]),
            ("one two", vec!["one two"]),
            ("one two three", vec!["one two", "three"]),
            ("one veryverylong", vec!["one", "veryvery", "long"]),
            ("a\nb", vec!["a b"]),
        ] {
            assert_eq!(wrap(text, 8), expected, "{text:?}");
        }
    }
}
