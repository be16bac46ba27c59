//! Whether streams are kept in a way that policy can rely on.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use tidemill_policy::manifest::{Handler, Manifest, Mode, Nats as NatsTable, show_duration};
use tidemill_policy::publication::{repeats_within, retries_through_stream};
use tidemill_policy::{retry, subject};

use super::Findings;
use crate::broker::nats::own::{self, Kind};

/// Checks a handler's input stream.
pub(super) fn input(handler: &Handler, stream: &Config, findings: &mut Findings) {
    let Handler { name, ack_wait, .. } = handler;
    let Config { name: stream_name, max_age, .. } = stream;
    if !max_age.is_zero() && *max_age < *ack_wait {
        findings.conflict(format!(
            "handler.{name}: ack_wait = {} is longer than stream {stream_name:?} keeps a message (max_age = {}), so one \
             whose instance dies would be lost; raise it: nats stream edit {stream_name} --max-age {}, or lower ack_wait",
            show_duration(*ack_wait),
            show_duration(*max_age),
            argument(*ack_wait),
        ));
    }
    let threshold = stream.consumer_limits.as_ref().map_or(Duration::ZERO, |limits| limits.inactive_threshold);
    // A work queue forgets what is done, so that a new consumer does not start over.
    let starts_over = stream.retention != RetentionPolicy::WorkQueue && handler.mode == Mode::Queue;
    if !threshold.is_zero() && starts_over {
        findings.conflict(format!(
            "handler.{name}: durable = {:?} must outlast the time in which no instance runs, but stream {stream_name:?} \
             removes consumers that are idle for {} (consumer_limits.inactive_threshold), and all its events would be \
             handled again; remove that limit",
            handler.durable,
            show_duration(threshold),
        ));
    }
}

/// Whether one of our own streams has as many replicas as the manifest asks for; that is an operator's to change.
pub(super) fn replicas(table: &NatsTable, stream: &Config, findings: &mut Findings) {
    let (name, has, wanted) = (&stream.name, stream.num_replicas, table.replicas);
    if has < wanted as usize {
        findings.warn(format!(
            "nats.replicas = {wanted}, but stream {name:?} was made with {has}, and what it holds is out of reach while its \
             server is down; raise it: nats stream edit {name} --replicas {wanted}"
        ));
    }
}

/// Checks our retry stream.
pub(super) fn retry(manifest: &Manifest, stream: &Config, findings: &mut Findings) {
    let name = &stream.name;
    if stream.retention != RetentionPolicy::WorkQueue {
        findings.conflict(format!(
            "stream {name:?} has retention = {}, but retries that are done must leave it (retention = workqueue); delete it \
             when it is empty, we make it anew: nats stream rm {name}",
            retention(stream),
        ));
    }
    // Else it is put right ([`ours`]).
    let stays = stream.retention != RetentionPolicy::WorkQueue;
    for handler in manifest.handlers.values().filter(|handler| stays && retries_through_stream(handler)) {
        let longest = retry::longest_delay(&handler.retry);
        if !stream.max_age.is_zero() && stream.max_age <= longest {
            findings.conflict(format!(
                "handler.{}: retry.max = {} lets a retry wait for up to {} (a handler may ask for 1h), but stream {name:?} \
                 keeps messages for {} only (max_age); remove it: nats stream edit {name} --max-age 0",
                handler.name,
                show_duration(handler.retry.max),
                show_duration(longest),
                show_duration(stream.max_age),
            ));
        }
    }
    if let Some(limit) = forgets(stream).filter(|_| stays) {
        findings.conflict(format!(
            "stream {name:?} drops its oldest messages when there is no room ({limit}, discard = old), which are events \
             that wait for their retry; remove that limit"
        ));
    }
}

/// Checks the bucket of markers for what nobody can change.
pub(super) fn markers(stream: &Config, findings: &mut Findings) {
    let name = &stream.name;
    if stream.retention != RetentionPolicy::Limits {
        findings.conflict(format!(
            "stream {name:?} has retention = {}, but what is remembered of events must stay in it (retention = limits); delete \
             it, we make it anew, and what was remembered is lost: nats stream rm {name}",
            retention(stream),
        ));
    }
}

/// Checks what is put right about one of our own streams when an instance starts.
pub(super) fn ours(kind: Kind, stream: &Config, can_update: bool, findings: &mut Findings) {
    let name = &stream.name;
    let (_, said) = own::mended(kind, stream, &Config::default());
    for said in said {
        if can_update {
            findings.warn(format!("stream {name:?} is not kept as it must be, and is put right at the start: {said}"));
        } else {
            findings.conflict(format!(
                "stream {name:?} is not kept as it must be: {said}; correct it (nats stream edit {name}), or grant publish on \
                 \"$JS.API.STREAM.UPDATE.{name}\" for us to do so"
            ));
        }
    }
}

/// Checks the stream that keeps a handler's dead letters.
pub(super) fn dead_letters(handler: &Handler, stream: &Config, findings: &mut Findings) {
    let stream_name = &stream.name;
    let wanted = handler.dead_letter.max_age;
    if !stream.max_age.is_zero() && stream.max_age < wanted {
        findings.conflict(format!(
            "handler.{}: dead_letter.max_age = {} is longer than stream {stream_name:?} keeps a message (max_age = {}); \
             raise it: nats stream edit {stream_name} --max-age {}, or lower dead_letter.max_age",
            handler.name,
            show_duration(wanted),
            show_duration(stream.max_age),
            argument(wanted),
        ));
    }
    if stream.retention != RetentionPolicy::Limits {
        findings.conflict(format!(
            "handler.{}: dead_letter.subject = {:?} is stored by stream {stream_name:?}, which removes messages that \
             somebody has read (retention = {}); choose another subject, or a stream with retention = limits",
            handler.name,
            handler.dead_letter.subject,
            retention(stream),
        ));
    }
    if let Some(limit) = forgets(stream) {
        findings.warn(format!(
            "stream {stream_name:?} drops its oldest messages when there is no room ({limit}, discard = old): dead letters \
             may go before dead_letter.max_age of handler.{} is over",
            handler.name
        ));
    }
}

/// Checks that a stream of the user's takes dead letters that expire: it would refuse them for ever.
pub(super) fn expiry(handler: &Handler, stream: &Config, findings: &mut Findings) {
    if !stream.allow_message_ttl {
        findings.conflict(format!(
            "handler.{}: dead_letter.max_age = {} makes each dead letter expire, but stream {:?}, which stores \
             dead_letter.subject = {:?}, refuses messages that do (allow_msg_ttl); allow them: nats stream edit {} \
             --allow-msg-ttl",
            handler.name,
            show_duration(handler.dead_letter.max_age),
            stream.name,
            handler.dead_letter.subject,
            stream.name,
        ));
    }
}

/// Checks the streams that store what a handler publishes: they must recognise a repeated output for as long
/// as it may be repeated.
pub(super) fn outputs(handler: &Handler, streams: &[Config], findings: &mut Findings) {
    let Handler { name, ack_wait, limits, .. } = handler;
    let timeout = limits.budget.timeout;
    let soon = ack_wait.saturating_add(timeout);
    let late = repeats_within(handler);
    for pattern in &handler.allow.publish {
        let stores = |stream: &&Config| stream.subjects.iter().any(|one| subject::overlaps(one, pattern));
        let mut holders = streams.iter().filter(stores).peekable();
        if holders.peek().is_none() {
            findings.warn(format!(
                "handler.{name}: no stream stores allow.publish = {pattern:?}, so outputs on it fail; \
                 create one: nats stream add NAME --subjects {pattern:?}"
            ));
        }
        for Config { name: stream, duplicate_window: window, .. } in holders {
            let recognises = show_duration(*window);
            if *window < soon {
                findings.conflict(format!(
                    "handler.{name}: after ack_wait = {} and limits.timeout = {} an event may be handled again, but stream \
                     {stream:?}, which stores {pattern:?}, recognises a repeated output for {recognises} only \
                     (duplicate_window); raise it: nats stream edit {stream} --dupe-window {}, or lower limits.timeout or \
                     ack_wait",
                    show_duration(*ack_wait),
                    show_duration(timeout),
                    argument(in_minutes(soon)),
                ));
            } else if *window < late {
                let text = format!(
                    "handler.{name}: with retry.max_attempts = {} and retry.max = {} an event may be handled again after {}, \
                     but stream {stream:?}, which stores {pattern:?}, recognises a repeated output for {recognises} only \
                     (duplicate_window); raise it: nats stream edit {stream} --dupe-window {}, or lower retry.max or \
                     retry.max_attempts",
                    handler.retry.max_attempts,
                    show_duration(handler.retry.max),
                    show_duration(in_minutes(late)),
                    argument(in_minutes(late)),
                );
                if handler.dedup.is_some() {
                    findings.conflict(format!("{text}; dedup asks for effects once"));
                } else {
                    findings.warn(text);
                }
            }
        }
    }
}

/// Checks that one stream stores all that a handler publishes, and can do so at one moment. Returns its name.
pub(super) fn together<'a>(handler: &Handler, streams: &'a [Config], findings: &mut Findings) -> Option<&'a str> {
    let name = &handler.name;
    let granted = &handler.allow.publish;
    let stores = |stream: &&Config| {
        stream.subjects.iter().any(|one| granted.iter().any(|pattern| subject::overlaps(one, pattern)))
    };
    let mut holders: Vec<_> = streams.iter().filter(stores).collect();
    holders.sort_by_key(|stream| &stream.name);
    let [only] = holders[..] else {
        if !holders.is_empty() {
            let names = holders.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", ");
            findings.conflict(format!(
                "handler.{name}: outputs = \"atomic\" stores all outputs of an event in one stream, but several store what \
                 allow.publish grants ({names}); grant subjects of one of them only, or set outputs = \"each\""
            ));
        }
        return None;
    };
    let stream = &only.name;
    if !only.allow_atomic_publish {
        findings.conflict(format!(
            "handler.{name}: outputs = \"atomic\" needs a stream that takes atomic batches (allow_atomic), but {stream:?}, \
             which stores its outputs, does not; allow them: nats stream edit {stream} --allow-batch, or set outputs = \"each\""
        ));
    }
    Some(stream)
}

/// The limit at which a stream drops messages that are still wanted.
fn forgets(stream: &Config) -> Option<String> {
    let limits = [
        ("max_msgs", stream.max_messages),
        ("max_bytes", stream.max_bytes),
        ("max_msgs_per_subject", stream.max_messages_per_subject),
    ];
    let limit = limits.into_iter().find(|(_, limit)| *limit > 0).filter(|_| stream.discard == DiscardPolicy::Old)?;
    Some(format!("{} = {}", limit.0, limit.1))
}

fn retention(stream: &Config) -> &'static str {
    match stream.retention {
        RetentionPolicy::Limits => "limits",
        RetentionPolicy::Interest => "interest",
        RetentionPolicy::WorkQueue => "workqueue",
    }
}

/// The next full minute.
fn in_minutes(duration: Duration) -> Duration {
    let minutes = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)).div_ceil(60);
    Duration::from_secs(minutes.saturating_mul(60))
}

/// A duration as the `nats` command takes it, in one unit.
fn argument(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 0 && seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_can_be_pasted() {
        for (seconds, expected) in [(30, "30s"), (90, "90s"), (120, "2m"), (5400, "90m"), (86_400 * 30, "30d")] {
            assert_eq!(argument(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(argument(in_minutes(Duration::from_millis(60_001))), "2m");
    }
}
