//! The log as a person at a terminal reads it: one line for the fate of each event, the handlers' own lines
//! indented below, and everything else as a sentence.

use std::fmt::{self, Write as _};
use std::time::Duration;

use tidemill_policy::decide::rfc3339;
use tidemill_policy::manifest::show_duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::HANDLER_TARGET;
use crate::clock::Clock;
use crate::fate;

/// How wide a subject with its sequence is, unless it is longer.
const SUBJECT_WIDTH: usize = 30;

const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const ALARM: &str = "\x1b[1;37;41m";
const RESET: &str = "\x1b[0m";

/// Formats log events for a person.
pub(super) struct Readable {
    /// Whether to colour.
    pub(super) colour: bool,
    /// How wide handlers' names are.
    pub(super) name_width: usize,
}

impl<S, N> FormatEvent<S, N> for Readable
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let now = rfc3339(Clock::System.now_ms());
        // The time of day, without the date and the Z.
        let time = now.get(11..23).unwrap_or_default();
        let line = match event.metadata().target() {
            fate::LOG_TARGET => self.fate(time, &fields),
            HANDLER_TARGET => self.handler_line(time, level, &fields),
            _ => self.other(time, level, &fields),
        };
        writeln!(writer, "{line}")
    }
}

/// The fields of a log event as texts.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), one_line(&format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), one_line(value)));
    }
}

/// A text on one line, without anything that would steer the terminal: handlers write what they like.
fn one_line(text: &str) -> String {
    let text = text.trim_end();
    if text.contains(char::is_control) { text.replace('\n', " | ").replace(char::is_control, " ") } else { text.into() }
}

impl Readable {
    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("{style}{text}{RESET}") } else { text.to_owned() }
    }

    /// `12:00:01.123 welcome-email  registration.welcome_email #17  handled   attempt 2  1.3 ms  1 output`
    fn fate(&self, time: &str, fields: &Fields) -> String {
        let what = fields.text("message");
        let (style, word) = match what {
            "handled" => (GREEN, "handled"),
            "retry" => (YELLOW, "retry"),
            "dead-lettered" => (ALARM, "DEAD LETTER"),
            other => (DIM, other),
        };
        let place = format!("{} #{}", fields.text("subject"), fields.text("sequence"));
        let mut line = format!(
            "{} {:name_width$}  {place:SUBJECT_WIDTH$}  {}{}  attempt {}  {}",
            self.paint(DIM, time),
            fields.text("handler"),
            self.paint(style, word),
            " ".repeat(11_usize.saturating_sub(word.len())),
            fields.text("attempt"),
            show_elapsed(Duration::from_micros(fields.number("elapsed_us"))),
            name_width = self.name_width,
        );
        // Writing to a string cannot fail.
        let _ = match what {
            "handled" => write!(line, "  {}", counted(fields.number("outputs"), "output")),
            "retry" => {
                let delay = show_elapsed(Duration::from_millis(fields.number("delay_ms")));
                write!(line, "  {}: {}; again in {delay}", fields.text("kind"), fields.text("error"))
            }
            "stale" => write!(line, "  {}", fields.text("why")),
            "dead-lettered" => {
                write!(line, "  {}", self.paint(RED, &format!("{}: {}", fields.text("kind"), fields.text("error"))))
            }
            _ => Ok(()),
        };
        line
    }

    /// A line that a handler wrote, indented below the time.
    fn handler_line(&self, time: &str, level: Level, fields: &Fields) -> String {
        let name = fields.text("handler");
        let context = match fields.text("context") {
            "" => String::new(),
            context => format!("{context}: "),
        };
        let text = format!("{context}{}", fields.text("message"));
        let text = match level {
            Level::ERROR => self.paint(RED, &format!("error: {text}")),
            Level::WARN => self.paint(YELLOW, &format!("warning: {text}")),
            _ => text,
        };
        format!("{}     {} {text}", self.paint(DIM, time), self.paint(DIM, &format!("{name} |")))
    }

    /// A line of our own: its message, then its fields.
    fn other(&self, time: &str, level: Level, fields: &Fields) -> String {
        let mut line = self.paint(DIM, time);
        line.push(' ');
        line.push_str(&match level {
            Level::ERROR => self.paint(RED, "error: "),
            Level::WARN => self.paint(YELLOW, "warning: "),
            _ => String::new(),
        });
        line.push_str(fields.text("message"));
        for (name, value) in fields.0.iter().filter(|(name, _)| *name != "message") {
            line.push_str(&self.paint(DIM, &format!(" {name}={value}")));
        }
        line
    }
}

/// A number with its noun, in the plural where that is due.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A duration in the unit that suits it, to two digits or so.
pub fn show_elapsed(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        1_000_000..60_000_000 => {
            let tenths = us / 100_000;
            if tenths.is_multiple_of(10) {
                format!("{} s", tenths / 10)
            } else {
                format!("{}.{} s", tenths / 10, tenths % 10)
            }
        }
        _ => show_duration(Duration::from_secs(duration.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Readable = Readable { colour: false, name_width: 13 };

    fn fields(extra: &[(&'static str, &str)]) -> Fields {
        let usual = [
            ("handler", "welcome-email"),
            ("subject", "registration.welcome_email"),
            ("sequence", "17"),
            ("attempt", "2"),
            ("elapsed_us", "1345"),
        ];
        Fields(usual.iter().chain(extra).map(|(name, text)| (*name, one_line(text))).collect())
    }

    #[test]
    fn each_fate_is_one_line() {
        #[track_caller]
        fn check(extra: &[(&'static str, &str)], expected: &str) {
            assert_eq!(PLAIN.fate("12:00:01.123", &fields(extra)), expected);
        }
        check(
            &[("message", "handled"), ("outputs", "1")],
            "12:00:01.123 welcome-email  registration.welcome_email #17  handled      attempt 2  1.3 ms  1 output",
        );
        check(
            &[("message", "retry"), ("kind", "retry"), ("error", "busy\nlater\u{1b}[31m"), ("delay_ms", "1250")],
            "12:00:01.123 welcome-email  registration.welcome_email #17  retry        attempt 2  1.3 ms  \
             retry: busy | later [31m; again in 1.2 s",
        );
        check(
            &[("message", "dead-lettered"), ("kind", "trap"), ("error", "panicked")],
            "12:00:01.123 welcome-email  registration.welcome_email #17  DEAD LETTER  attempt 2  1.3 ms  trap: panicked",
        );
        check(
            &[("message", "released")],
            "12:00:01.123 welcome-email  registration.welcome_email #17  released     attempt 2  1.3 ms",
        );
    }

    #[test]
    fn a_handlers_own_lines_are_indented() {
        let line = PLAIN.handler_line("12:00:01.123", Level::WARN, &fields(&[("message", "no quota")]));
        assert_eq!(line, "12:00:01.123     welcome-email | warning: no quota");
    }

    #[test]
    fn without_colour_nothing_steers_the_terminal() {
        let extra = [("message", "dead-lettered"), ("error", "\u{1b}[2J\u{7}"), ("kind", "trap")];
        assert!(!PLAIN.fate("", &fields(&extra)).contains(char::is_control));
        let coloured = Readable { colour: true, ..PLAIN };
        assert!(coloured.fate("", &fields(&extra)).contains(ALARM));
    }

    #[test]
    fn elapsed_times_are_short() {
        let rows = [
            (17, "17 us"),
            (1345, "1.3 ms"),
            (45_678, "45 ms"),
            (1_000_000, "1 s"),
            (1_250_000, "1.2 s"),
            (90_500_000, "1m 30s"),
        ];
        for (us, expected) in rows {
            assert_eq!(show_elapsed(Duration::from_micros(us)), expected);
        }
    }
}
