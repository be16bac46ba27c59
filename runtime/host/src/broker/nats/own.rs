//! How our own streams must be kept, so that nothing in them goes before its time: a pure comparison. What an operator
//! may set as he likes stays as it is.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use tidemill_policy::manifest::show_duration;

use super::streams::minimal;

/// For how long markers without a time to live of their own are kept, which a server before 2.11 has left in the bucket.
const LEFT_AGE: Duration = Duration::from_hours(366 * 24);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Users' events.
    Users,
    /// Retries that wait.
    Retries,
    /// Dead letters.
    DeadLetters,
    /// Markers, which are kept for up to this long.
    Markers(Duration),
}

/// What a stream that is there should be like, and what of that keeps it from losing what is in it, to be said where it
/// is changed.
pub(super) fn mended(kind: Kind, present: &Config, wanted: &Config) -> (Config, Vec<String>) {
    let subjects: BTreeSet<_> = present.subjects.iter().chain(&wanted.subjects).cloned().collect();
    let mut merged = Config {
        subjects: same_or_minimal(present, &subjects),
        allow_message_schedules: present.allow_message_schedules || wanted.allow_message_schedules,
        allow_message_ttl: present.allow_message_ttl || wanted.allow_message_ttl,
        allow_atomic_publish: present.allow_atomic_publish || wanted.allow_atomic_publish,
        max_age: longer_age(present.max_age, wanted.max_age),
        ..present.clone()
    };
    let mut said = Vec::new();
    match kind {
        Kind::Users | Kind::DeadLetters => {}
        Kind::Retries if present.retention != RetentionPolicy::WorkQueue => {}
        Kind::Retries => retries(&mut merged, &mut said),
        Kind::Markers(needed) => {
            merged.deny_delete |= wanted.deny_delete;
            if wanted.allow_direct && !present.allow_direct {
                said.push("allow_direct was off: markers are looked up by direct gets".to_owned());
                merged.allow_direct = true;
            }
            markers((needed, present.max_age), wanted, &mut merged, &mut said);
        }
    }
    (merged, said)
}

fn retries(merged: &mut Config, said: &mut Vec<String>) {
    let keeps = "retries that wait are kept until they are due";
    if !merged.max_age.is_zero() {
        said.push(format!("max_age was {}: {keeps}", show_duration(merged.max_age)));
        merged.max_age = Duration::ZERO;
    }
    if merged.max_messages_per_subject > 0 {
        said.push(format!("max_msgs_per_subject was {}: {keeps}", merged.max_messages_per_subject));
        merged.max_messages_per_subject = -1;
    }
    if !merged.allow_message_schedules {
        return refuse_when_full(merged, said, keeps);
    }
    // With schedules, no server lets a stream refuse what does not fit.
    for (name, limit) in [("max_msgs", &mut merged.max_messages), ("max_bytes", &mut merged.max_bytes)] {
        if *limit > 0 {
            said.push(format!("{name} was {limit}: {keeps}"));
            *limit = -1;
        }
    }
    if merged.discard == DiscardPolicy::New {
        merged.discard = DiscardPolicy::Old;
        said.push("discard was new, which no server allows with schedules".to_owned());
    }
}

fn markers((needed, present): (Duration, Duration), wanted: &Config, merged: &mut Config, said: &mut Vec<String>) {
    let keeps = "markers are kept until what they are for is over";
    if !present.is_zero() && present < needed {
        let (is, needs) = (show_duration(present), show_duration(needed));
        said.push(format!("max_age was {is}, less than the {needs} that the manifest needs"));
        // Markers of their own expire earlier, where the server can have them do so.
        merged.max_age = if wanted.max_age.is_zero() { needed.max(LEFT_AGE) } else { needed };
    }
    if merged.max_messages_per_subject != 1 {
        said.push(format!(
            "max_msgs_per_subject was {}: only the latest marker of an event counts",
            merged.max_messages_per_subject
        ));
        merged.max_messages_per_subject = 1;
    }
    refuse_when_full(merged, said, keeps);
}

/// What does not fit is refused, and waits outside; what is in the stream stays.
fn refuse_when_full(merged: &mut Config, said: &mut Vec<String>, keeps: &str) {
    if merged.discard == DiscardPolicy::Old && (merged.max_messages > 0 || merged.max_bytes > 0) {
        said.push(format!("discard was old: {keeps}"));
        merged.discard = DiscardPolicy::New;
    }
}

/// Whether both ask for the same, as far as we change it.
pub(super) fn is_same(one: &Config, other: &Config) -> bool {
    let of = |config: &Config| {
        let allowed = [
            config.allow_message_schedules,
            config.allow_message_ttl,
            config.allow_atomic_publish,
            config.allow_direct,
        ];
        let room = (config.max_messages.max(-1), config.max_bytes.max(-1));
        let limits = (config.max_age, config.max_messages_per_subject, config.discard, config.deny_delete, room);
        (config.subjects.iter().cloned().collect::<BTreeSet<_>>(), allowed, limits)
    };
    of(one) == of(other)
}

fn same_or_minimal(present: &Config, all: &BTreeSet<String>) -> Vec<String> {
    let minimal = minimal(all);
    let is_same = minimal.iter().collect::<BTreeSet<_>>() == present.subjects.iter().collect();
    if is_same { present.subjects.clone() } else { minimal }
}

/// The maximal age that a stream gets: at least what is wanted, but no bound where there was none. Zero is none.
fn longer_age(present: Duration, wanted: Duration) -> Duration {
    if present.is_zero() { present } else { present.max(wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream for each way to limit one.
    fn all_configs() -> Vec<Config> {
        let mut all = Vec::new();
        for days in 0..3 {
            for (messages, bytes, each) in [(-1, -1, -1), (1, -1, 1), (-1, 1, 2), (0, 0, 0), (2, 2, 1)] {
                for discard in [DiscardPolicy::Old, DiscardPolicy::New] {
                    for retention in [RetentionPolicy::Limits, RetentionPolicy::Interest, RetentionPolicy::WorkQueue] {
                        all.push(Config {
                            name: "S".into(),
                            subjects: vec!["s.>".into()],
                            max_age: Duration::from_hours(days * 24),
                            max_messages: messages,
                            max_bytes: bytes,
                            max_messages_per_subject: each,
                            discard,
                            retention,
                            ..Config::default()
                        });
                    }
                }
            }
        }
        all
    }

    /// Whether a stream may drop what it has stored before somebody removes it.
    fn forgets(config: &Config) -> bool {
        let is_limited = config.max_messages > 0 || config.max_bytes > 0;
        config.discard == DiscardPolicy::Old && is_limited
    }

    #[test]
    fn no_limit_makes_a_marker_or_a_retry_go_early() {
        let wanted = Config { subjects: vec!["s.>".into()], ..Config::default() };
        for present in all_configs() {
            for needed in [1, 25, 24 * 90].map(Duration::from_hours) {
                let (markers, said) = mended(Kind::Markers(needed), &present, &wanted);
                assert!(markers.max_age.is_zero() || markers.max_age >= needed, "{present:?}");
                assert!(markers.max_messages_per_subject == 1 && !forgets(&markers), "{present:?}");
                assert_eq!(said.is_empty(), is_same(&markers, &present), "{present:?}");
                assert_eq!(mended(Kind::Markers(needed), &markers, &wanted).1.len(), 0, "it is said once");
            }
            let (retries, said) = mended(Kind::Retries, &present, &wanted);
            assert_eq!(said.is_empty(), is_same(&retries, &present), "{present:?}");
            if present.retention == RetentionPolicy::WorkQueue {
                assert!(retries.max_age.is_zero() && retries.max_messages_per_subject < 1 && !forgets(&retries));
            }
            let scheduled = Config { allow_message_schedules: true, ..wanted.clone() };
            let (retries, said) = mended(Kind::Retries, &present, &scheduled);
            if present.retention == RetentionPolicy::WorkQueue {
                assert!(retries.max_age.is_zero() && retries.max_messages_per_subject < 1, "{present:?}");
                assert!(retries.max_messages < 1 && retries.max_bytes < 1, "{present:?}");
                assert!(retries.discard == DiscardPolicy::Old, "schedules are refused: {present:?}");
                let again = mended(Kind::Retries, &retries, &scheduled);
                assert!(again.1.is_empty() && is_same(&again.0, &retries), "it is said once: {said:?}");
            }
            let (users, said) = mended(Kind::Users, &present, &wanted);
            assert!(is_same(&users, &present) && said.is_empty(), "{present:?}");
        }
    }

    #[test]
    fn a_stream_of_users_is_made_wider_and_otherwise_kept() {
        let present = Config { subjects: vec!["a".into()], max_age: Duration::from_secs(9), ..Config::default() };
        let wanted = Config { subjects: vec!["b".into()], ..Config::default() };
        let (merged, said) = mended(Kind::Users, &present, &wanted);
        assert_eq!(
            (merged.subjects, merged.max_age, said.len()),
            (vec!["a".into(), "b".into()], Duration::from_secs(9), 0)
        );
    }
}
