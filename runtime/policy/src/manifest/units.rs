//! Durations and sizes, which are always written with a unit.

use std::time::Duration;

use bytesize::ByteSize;

use super::problem::{Complaint, nearest};

/// The units of a duration with the short form that is proposed for each. Months and years are left out
/// on purpose: `M` is too easily taken for minutes.
const DURATION_UNITS: &[(&str, &str)] = &[
    ("ms", "ms"),
    ("msec", "ms"),
    ("millis", "ms"),
    ("s", "s"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("m", "m"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("h", "h"),
    ("hr", "h"),
    ("hrs", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("d", "d"),
    ("day", "d"),
    ("days", "d"),
    ("w", "w"),
    ("week", "w"),
    ("weeks", "w"),
];
const SIZE_UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "KB", "MB", "GB"];

const DAY_SECONDS: u64 = 86_400;

const DURATION_UNITS_HINT: &str = "units are ms, s, m, h, d and w, as in \"500ms\" or \"1m 30s\"";
const SIZE_UNITS_HINT: &str = "units are B, KiB, MiB, GiB, KB, MB and GB, as in \"64MiB\"";

/// The regular expression of the schema for durations.
pub(super) fn duration_pattern() -> String {
    let units: Vec<&str> = DURATION_UNITS.iter().map(|(unit, _)| *unit).collect();
    format!("^\\s*([0-9]+(\\.[0-9]+)?\\s*({})\\s*)+$", units.join("|"))
}

/// The regular expression of the schema for sizes.
pub(super) const SIZE_PATTERN: &str = "^[0-9]+(\\.[0-9]+)?\\s*([kKmMgG][iI]?[bB]?|[bB])$";

/// Reads a duration such as `1m 30s`.
pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    let mut units = text.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty());
    let known = units.all(|unit| DURATION_UNITS.iter().any(|(name, _)| *name == unit));
    match humantime::parse_duration(text) {
        Ok(duration) if known && !text.trim().is_empty() => Ok(duration),
        _ => Err(not_a_duration(text)),
    }
}

/// Reads a duration as the manifest writes it, for those who write it elsewhere.
///
/// # Errors
/// What is wrong with it, and what was probably meant.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|Complaint { message, hint, .. }| match hint {
        Some(hint) => format!("{message}: {hint}"),
        None => message,
    })
}

/// The complaint about `text`, a number without a unit among others, where a duration is expected.
pub(super) fn not_a_duration(text: &str) -> Complaint {
    let (number, unit) = split_number(text);
    let known = nearest(unit, DURATION_UNITS.iter().map(|(name, _)| *name));
    let short = DURATION_UNITS.iter().find(|(name, _)| Some(*name) == known).map(|(_, short)| *short);
    let short = if unit.is_empty() { Some("s") } else { short };
    propose("must be a duration with a unit", number, short, DURATION_UNITS_HINT)
}

/// Reads a size such as `64MiB`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, Complaint> {
    let (_, unit) = split_number(text);
    match text.trim().parse::<ByteSize>() {
        Ok(size) if !unit.is_empty() => Ok(size.as_u64()),
        _ => Err(not_a_size(text)),
    }
}

/// The complaint about `text`, a number without a unit among others, where a size is expected.
pub(super) fn not_a_size(text: &str) -> Complaint {
    let (number, unit) = split_number(text);
    let bytes = number.len() > 4;
    let known = match unit {
        "" if bytes => Some("B"),
        "" => Some("MiB"),
        unit => nearest(unit, SIZE_UNITS.iter().copied()),
    };
    propose("must be a size with a unit", number, known, SIZE_UNITS_HINT)
}

fn propose(message: &str, number: &str, unit: Option<&str>, hint: &str) -> Complaint {
    let complaint = Complaint::new(message);
    match unit {
        Some(unit) if !number.is_empty() => complaint.hint(format!("did you mean \"{number}{unit}\"? {hint}")),
        _ => complaint.hint(hint),
    }
}

/// Splits a leading decimal number off.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// A duration as the manifest writes it.
pub fn show_duration(duration: Duration) -> String {
    let days = duration.as_secs() / DAY_SECONDS;
    let rest = duration.saturating_sub(Duration::from_secs(days * DAY_SECONDS));
    match (days, rest) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (_, Duration::ZERO) => format!("{days}d"),
        _ => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

/// A size as the manifest writes it.
pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let exact = units.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    exact.map_or(format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit_we_know() {
        let rows = [
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("1.5s", Some(1_500)),
            ("1m 30s", Some(90_000)),
            ("24h", Some(86_400_000)),
            ("", None),
            ("5", None),
            ("5M", None),
            ("5 sec0nds", None),
            ("-5s", None),
            ("99999999999999999999s", None),
            ("9999999999999999999w", None),
        ];
        for (text, expected) in rows {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
        for (unit, short) in DURATION_UNITS {
            assert_eq!(duration(&format!("3{unit}")), duration(&format!("3{short}")));
            assert!(duration(&format!("3{unit}")).is_ok());
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        let rows = [
            ("64MiB", Some(64 << 20)),
            ("64MB", Some(64_000_000)),
            ("64 KiB", Some(64 << 10)),
            ("1.5KiB", Some(1_536)),
            ("0B", Some(0)),
            ("64", None),
            ("MiB", None),
            ("64Mebi", None),
            ("-1B", None),
        ];
        for (text, expected) in rows {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_met_with_what_was_probably_meant() {
        let rows = [("5", "5s"), ("5 sec0nds", "5s"), ("10 minute5", "10m"), ("3dayz", "3d")];
        for (text, meant) in rows {
            let hint = not_a_duration(text).hint.unwrap_or_default();
            assert!(hint.starts_with(&format!("did you mean \"{meant}\"?")), "{text}: {hint}");
        }
        let rows = [("64", "64MiB"), ("1048576", "1048576B"), ("64mbi", "64MiB"), ("5 Kbi", "5KiB")];
        for (text, meant) in rows {
            let hint = not_a_size(text).hint.unwrap_or_default();
            assert!(hint.starts_with(&format!("did you mean \"{meant}\"?")), "{text}: {hint}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 0..4_000_000_000_u64, bytes in any::<u64>()) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn nothing_panics(text in any::<String>(), near in "[0-9.]{0,30} ?[a-zA-Z0-9]{0,6}") {
            let _ = (duration(&text), duration(&near), size(&text), size(&near));
        }
    }
}
