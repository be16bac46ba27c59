//! Figures as people read them.

use std::time::Duration;

/// A whole number with its thousands apart: `4,000`.
pub(crate) fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 order`, `2 orders`.
pub(crate) fn plural(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A duration in the unit that suits it, with two or three digits: `850 µs`, `3.1 ms`, `1.2 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_micros() {
        0..1_000 => format!("{} µs", duration.as_micros()),
        1_000..10_000 => format!("{:.1} ms", seconds * 1e3),
        10_000..1_000_000 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

/// The same for microseconds; a dash where nothing was measured.
pub(crate) fn micros(micros: u64) -> String {
    if micros == 0 { "–".to_owned() } else { duration(Duration::from_micros(micros)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")];
        for (number, expected) in cases {
            assert_eq!(count(number), expected);
        }
        assert_eq!((plural(1, "order"), plural(0, "order")), ("1 order".to_owned(), "0 orders".to_owned()));
    }

    #[test]
    fn durations() {
        let cases = [(850, "850 µs"), (3_140, "3.1 ms"), (31_400, "31 ms"), (1_234_000, "1.2 s"), (0, "–")];
        for (us, expected) in cases {
            assert_eq!(micros(us), expected);
        }
    }
}
