//! NATS subjects and the patterns that select them: syntax, matching, overlap and cover.
//!
//! A subject is a list of tokens with dots between them. In a pattern, the token `*` stands for any one
//! token, and a last token `>` for one or more. The relations below expect checked subjects and patterns;
//! on anything else they still end and never panic, but their answer means nothing.

use thiserror::Error;

/// The longest subject or pattern, in bytes. The server accepts up to 4 KiB of protocol line.
pub const SUBJECT_BYTES_MAX: usize = 1024;

const ONE: &str = "*";
const REST: &str = ">";

/// Why a text is not a subject, or not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// There is no text at all.
    #[error("a subject must not be empty")]
    Empty,
    /// The text is longer than [`SUBJECT_BYTES_MAX`].
    #[error("a subject has at most {SUBJECT_BYTES_MAX} bytes")]
    TooLong,
    /// The text holds a blank or a control character.
    #[error("a subject has no blanks or control characters")]
    Blank,
    /// Two dots follow each other, or a dot is first or last.
    #[error("a token is empty: two dots follow each other, or a dot is first or last")]
    EmptyToken,
    /// `*` or `>` in a subject that must name one place.
    #[error("wildcards are not allowed here")]
    Wildcard,
    /// `*` or `>` beside other characters in a token, where NATS takes it literally.
    #[error("a wildcard must be a whole token, as in \"orders.*\"")]
    PartialWildcard,
    /// `>` before the end.
    #[error("the wildcard \">\" must be the last token")]
    RestNotLast,
}

/// Checks that `text` is a subject: a place to publish on, without wildcards.
///
/// # Errors
///
/// The first rule of the syntax that is broken.
pub fn check_subject(text: &str) -> Result<(), SubjectError> {
    check_pattern(text)?;
    if text.split('.').any(|token| token == ONE || token == REST) { Err(SubjectError::Wildcard) } else { Ok(()) }
}

/// The longest subject that a server hands on, in bytes.
const WIRE_BYTES_MAX: usize = 4 * 1024;

/// Whether a message can be sent on `text` without it being taken for something else. Servers store more than what
/// [`check_subject`] takes for a subject.
pub fn can_be_sent_on(text: &str) -> bool {
    (1..=WIRE_BYTES_MAX).contains(&text.len()) && !text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ')
}

/// Checks that `text` is a pattern: a subject in which wildcards are allowed.
///
/// # Errors
///
/// The first rule of the syntax that is broken.
pub fn check_pattern(text: &str) -> Result<(), SubjectError> {
    if text.is_empty() {
        return Err(SubjectError::Empty);
    }
    if text.len() > SUBJECT_BYTES_MAX {
        return Err(SubjectError::TooLong);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::Blank);
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        check_token(token, tokens.peek().is_none())?;
    }
    Ok(())
}

fn check_token(token: &str, last: bool) -> Result<(), SubjectError> {
    match token {
        "" => Err(SubjectError::EmptyToken),
        REST if !last => Err(SubjectError::RestNotLast),
        ONE | REST => Ok(()),
        _ if token.contains(['*', '>']) => Err(SubjectError::PartialWildcard),
        _ => Ok(()),
    }
}

/// Whether the subject belongs to NATS itself: its first token starts with `$` (`$JS`, `$SYS`, `$KV`) or
/// with `_` (`_INBOX`).
pub fn is_internal(subject: &str) -> bool {
    subject.starts_with(['$', '_'])
}

/// Whether `pattern` selects `subject`, which has no wildcards.
pub fn matches(pattern: &str, subject: &str) -> bool {
    covers(pattern, subject)
}

/// Whether `pattern` selects every subject that `sub` (a pattern or a subject) selects.
pub fn covers(pattern: &str, sub: &str) -> bool {
    let (mut outer, mut inner) = (pattern.split('.'), sub.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (None, None) | (Some(REST), Some(_)) => return true,
            (Some(ONE), Some(token)) if token != REST => {}
            (Some(expected), Some(token)) if expected == token => {}
            _ => return false,
        }
    }
}

/// Whether there is a subject that both patterns select.
pub fn overlaps(a: &str, b: &str) -> bool {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some(REST), Some(_)) | (Some(_), Some(REST)) => return true,
            (Some(ONE), Some(_)) | (Some(_), Some(ONE)) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

/// A subject that both patterns select, where there is one.
pub fn common(a: &str, b: &str) -> Option<String> {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    let mut tokens = Vec::new();
    loop {
        match (left.next(), right.next()) {
            (None, None) => break,
            (Some(REST), Some(token)) => {
                tokens.extend([token].into_iter().chain(right));
                break;
            }
            (Some(token), Some(REST)) => {
                tokens.extend([token].into_iter().chain(left));
                break;
            }
            (Some(ONE), Some(token)) | (Some(token), Some(ONE)) => tokens.push(token),
            (Some(x), Some(y)) if x == y => tokens.push(x),
            _ => return None,
        }
    }
    let any = |token| if [ONE, REST].contains(&token) { "any" } else { token };
    Some(tokens.into_iter().map(any).collect::<Vec<_>>().join("."))
}

/// The pattern that `wanted` may be a slip of the pen for: the nearest of those that a stream stores, with its wildcards
/// filled in from `wanted`. Nothing where none is near.
pub fn nearest<'a>(wanted: &str, stored: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates = stored.into_iter().filter_map(|one| filled(one, wanted));
    let measured = candidates.map(|one| (strsim::osa_distance(wanted, &one), one));
    let near = measured.filter(|(distance, one)| *distance > 0 && *distance <= one.chars().count().div_ceil(3));
    near.min().map(|(_, one)| one)
}

/// `pattern` with what `wanted` has in the place of its wildcards; nothing where it has not as many tokens.
fn filled(pattern: &str, wanted: &str) -> Option<String> {
    let mut tokens = wanted.split('.');
    let mut filled = Vec::new();
    for token in pattern.split('.') {
        match (token, tokens.next()) {
            (REST, Some(first)) => {
                filled.push(first);
                filled.extend(tokens.by_ref());
            }
            // What may be several tokens does not go in the place of one.
            (ONE, Some(wanted)) => filled.push(if wanted == REST { ONE } else { wanted }),
            (ONE | REST, None) => return None,
            (token, _) => filled.push(token),
        }
    }
    Some(filled.join("."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn syntax_is_checked_at_every_token() {
        let rows = [
            ("orders", Ok(())),
            ("orders.created.eu-1", Ok(())),
            ("bücher.neu", Ok(())),
            ("", Err(SubjectError::Empty)),
            (".orders", Err(SubjectError::EmptyToken)),
            ("orders..created", Err(SubjectError::EmptyToken)),
            ("orders.", Err(SubjectError::EmptyToken)),
            ("orders created", Err(SubjectError::Blank)),
            ("orders\u{0}", Err(SubjectError::Blank)),
            ("orders.*", Err(SubjectError::Wildcard)),
            ("orders.>", Err(SubjectError::Wildcard)),
            ("orders.cre*", Err(SubjectError::PartialWildcard)),
            ("orders.>.created", Err(SubjectError::RestNotLast)),
        ];
        for (text, expected) in rows {
            assert_eq!(check_subject(text), expected, "{text:?}");
        }
        assert_eq!(check_pattern(">"), Ok(()));
        assert_eq!(check_pattern("*.created.>"), Ok(()));
        let long = "a".repeat(SUBJECT_BYTES_MAX + 1);
        assert_eq!(check_pattern(&long), Err(SubjectError::TooLong));
    }

    #[test]
    fn wildcards_select_what_nats_says() {
        let rows = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a", false),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*.c", "a.b.c", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*", "a.b", false),
        ];
        for (pattern, subject, expected) in rows {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn cover_is_stricter_than_overlap() {
        assert!(covers("a.>", "a.*"));
        assert!(covers("a.>", "a.b.>"));
        assert!(!covers("a.*", "a.>"));
        assert!(overlaps("a.*", "a.>"));
        assert!(overlaps("a.*.c", "a.b.*"));
        assert!(!overlaps("a.*.c", "a.b.d"));
        assert!(!overlaps("a.>", "a"));
    }

    #[test]
    fn the_nearest_stored_subject_is_found_with_its_wildcards_filled_in() {
        let rows: [(&str, &[&str], Option<&str>); 9] = [
            ("stok.moved", &["stock.moved"], Some("stock.moved")),
            ("stok.moved", &["stock.*", "order.>"], Some("stock.moved")),
            ("stok.moved.eu", &["stock.>"], Some("stock.moved.eu")),
            ("stok.*", &["stock.moved", "stock.*"], Some("stock.*")),
            ("stock.mvoed", &["stock.moved", "stock.removed"], Some("stock.moved")),
            ("stock", &["stock.*"], None),
            ("payments.settled", &["stock.moved"], None),
            ("lager.bewegt", &["läger.bewegt"], Some("läger.bewegt")),
            ("a", &[], None),
        ];
        for (wanted, stored, expected) in rows {
            assert_eq!(nearest(wanted, stored.iter().copied()).as_deref(), expected, "{wanted} {stored:?}");
        }
    }

    /// Few letters and short lists, so that patterns and subjects often meet.
    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]", 1..5).prop_map(|tokens| tokens.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        (prop::collection::vec("[ab*]", 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.push(REST.to_owned());
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn generated_patterns_are_valid(p in pattern(), s in subject()) {
            prop_assert_eq!(check_pattern(&p), Ok(()));
            prop_assert_eq!(check_subject(&s), Ok(()));
        }

        #[test]
        fn what_is_suggested_overlaps_with_what_is_stored(wanted in pattern(), stored in prop::collection::vec(pattern(), 0..4)) {
            if let Some(near) = nearest(&wanted, stored.iter().map(String::as_str)) {
                prop_assert_eq!(check_pattern(&near), Ok(()));
                prop_assert!(stored.iter().any(|one| overlaps(one, &near)));
            }
        }

        #[test]
        fn a_common_subject_means_overlap(a in pattern(), b in pattern(), s in subject()) {
            if matches(&a, &s) && matches(&b, &s) {
                prop_assert!(overlaps(&a, &b));
            }
        }

        #[test]
        fn overlap_means_a_common_subject(a in pattern(), b in pattern()) {
            prop_assert_eq!(overlaps(&a, &b), overlaps(&b, &a));
            let common = all_subjects(5).iter().any(|s| matches(&a, s) && matches(&b, s));
            prop_assert_eq!(overlaps(&a, &b), common);
        }

        #[test]
        fn a_common_subject_is_one_that_both_select(a in pattern(), b in pattern()) {
            let found = super::common(&a, &b);
            prop_assert_eq!(found.is_some(), overlaps(&a, &b));
            if let Some(subject) = found {
                prop_assert_eq!(check_subject(&subject), Ok(()));
                prop_assert!(matches(&a, &subject) && matches(&b, &subject), "{}", subject);
            }
        }

        #[test]
        fn cover_hands_down_every_subject(a in pattern(), b in pattern(), s in subject()) {
            prop_assert!(covers(&a, &a));
            if covers(&a, &b) {
                prop_assert!(overlaps(&a, &b));
                prop_assert!(!matches(&b, &s) || matches(&a, &s));
            }
        }

        #[test]
        fn nothing_panics(a in any::<String>(), b in any::<String>()) {
            let _ = (check_subject(&a), matches(&a, &b), overlaps(&a, &b), is_internal(&a));
        }
    }

    /// Every subject of up to `tokens_max` tokens over the letters that the strategies use.
    fn all_subjects(tokens_max: usize) -> Vec<String> {
        let mut all = vec!["a".to_owned(), "b".to_owned()];
        let mut longest = all.clone();
        for _ in 1..tokens_max {
            longest = longest.iter().flat_map(|s| [format!("{s}.a"), format!("{s}.b")]).collect();
            all.extend(longest.iter().cloned());
        }
        all
    }
}
