//! Whose a consumer is, and how it was set up: written beside it, in its metadata, so that another deployment, another
//! version of a manifest and somebody who has edited the consumer can be told apart.

use std::collections::HashMap;

use async_nats::jetstream::consumer::{AckPolicy, Config};

const PREFIX: &str = "tidemill.prefix";
const HANDLER: &str = "tidemill.handler";
const STREAM: &str = "tidemill.stream";
const SUBJECTS: &str = "tidemill.subjects";
const CREATED: &str = "tidemill.stream_created";
const SETTINGS: &str = "tidemill.settings";
/// Where a consumer whose subjects were changed is to be set back to; nothing once that is done.
const GOES_ON: &str = "tidemill.goes_on";

/// The handler that a consumer is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The prefix of its deployment.
    pub prefix: String,
    /// Its name.
    pub handler: String,
    /// Its input stream.
    pub stream: String,
    /// The subjects that it handles, sorted.
    pub subjects: Vec<String>,
    /// When its input stream was created, in seconds since the Unix epoch.
    pub created_unix: i64,
}

impl Owner {
    /// Whose a consumer is, as its metadata say; nothing where they do not.
    pub fn read(metadata: &HashMap<String, String>) -> Option<Owner> {
        let text = |key: &str| metadata.get(key).cloned();
        let subjects = text(SUBJECTS)?.split(' ').map(str::to_owned).collect();
        let created_unix = text(CREATED).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Owner { prefix: text(PREFIX)?, handler: text(HANDLER)?, stream: text(STREAM)?, subjects, created_unix })
    }

    /// Whether nobody says whose it is.
    pub fn is_unknown(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Whether both read the same for the same handler.
    pub fn is_same(&self, other: &Owner) -> bool {
        Owner { created_unix: other.created_unix, ..self.clone() } == *other
    }

    /// The deployment in a message.
    pub fn describe(&self) -> String {
        let Owner { prefix, handler, stream, subjects, .. } = self;
        format!("handler.{handler} of prefix {prefix:?}, which reads {:?} of stream {stream:?}", subjects.join(", "))
    }
}

/// Writes down whose a consumer is, and how it is set up; what others have written stays.
pub(super) fn write(metadata: &mut HashMap<String, String>, owner: &Owner, settings: &[(&'static str, String)]) {
    if owner.is_unknown() {
        return;
    }
    let Owner { prefix, handler, stream, subjects, created_unix } = owner;
    let entries = [
        (PREFIX, prefix.clone()),
        (HANDLER, handler.clone()),
        (STREAM, stream.clone()),
        (SUBJECTS, subjects.join(" ")),
        (CREATED, created_unix.to_string()),
        (SETTINGS, lines(settings).join("\n")),
    ];
    metadata.extend(entries.map(|(key, value)| (key.to_owned(), value)));
}

/// Writes down where a consumer is to be set back to, or that it was.
pub(super) fn write_goes_on(metadata: &mut HashMap<String, String>, from: Option<u64>) {
    match from {
        Some(from) => metadata.insert(GOES_ON.to_owned(), from.to_string()),
        None => metadata.remove(GOES_ON),
    };
}

/// Where a consumer is to be set back to, which somebody was about to do.
pub(super) fn goes_on(metadata: &HashMap<String, String>) -> Option<u64> {
    metadata.get(GOES_ON)?.parse().ok().filter(|from| *from > 0)
}

/// Settings as they are written down.
pub(super) fn lines(settings: &[(&'static str, String)]) -> Vec<String> {
    settings.iter().map(|(name, value)| format!("{name} = {value}")).collect()
}

/// How a consumer was set up by whoever wrote its metadata, as `name = value`; nothing where nobody did.
pub(super) fn recorded(metadata: &HashMap<String, String>) -> Option<Vec<String>> {
    Some(metadata.get(SETTINGS)?.lines().map(str::to_owned).collect())
}

/// The settings of a consumer that deliveries depend on and that can be changed in place.
pub(super) fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let one = (!config.filter_subject.is_empty()).then(|| config.filter_subject.clone());
    let mut filters: Vec<_> = one.into_iter().chain(config.filter_subjects.iter().cloned()).collect();
    filters.sort();
    vec![
        ("ack_wait", format!("{:?}", config.ack_wait)),
        ("max_ack_pending", config.max_ack_pending.to_string()),
        // The server says -1 for 0.
        ("max_deliver", if config.max_deliver <= 0 { -1 } else { config.max_deliver }.to_string()),
        ("backoff", format!("{:?}", config.backoff)),
        ("filter", filters.join(" ")),
        ("headers_only", config.headers_only.to_string()),
        ("max_batch", config.max_batch.to_string()),
        ("max_bytes", config.max_bytes.to_string()),
        ("max_expires", format!("{:?}", config.max_expires)),
        ("priority_groups", format!("{:?}", config.priority_groups)),
        (INACTIVE_THRESHOLD, format!("{:?}", config.inactive_threshold)),
    ]
}

/// A stream may have a limit of its own for it.
pub(super) const INACTIVE_THRESHOLD: &str = "inactive_threshold";

/// The settings of a consumer that deliveries depend on and that cannot be changed, where they are not as they must be.
pub(super) fn unfit(config: &Config) -> Vec<String> {
    let mut unfit = Vec::new();
    if config.ack_policy != AckPolicy::Explicit {
        unfit.push(format!("ack_policy = {:?}, where Explicit is needed", config.ack_policy));
    }
    if config.replay_policy != async_nats::jetstream::consumer::ReplayPolicy::Instant {
        unfit.push(format!("replay_policy = {:?}, where Instant is needed", config.replay_policy));
    }
    if config.memory_storage {
        unfit.push("memory_storage = true, so that its place is lost with its server".to_owned());
    }
    if config.rate_limit > 0 {
        unfit.push(format!("rate_limit = {}, where none is needed", config.rate_limit));
    }
    unfit
}

/// In what the second list of settings is not the first.
pub(super) fn changed(wanted: &[(&'static str, String)], got: &[(&'static str, String)]) -> Vec<String> {
    let pairs = wanted.iter().zip(got).filter(|(wanted, got)| wanted != got);
    pairs.map(|((name, wanted), (_, got))| format!("{name} = {got}, where {wanted} was asked for")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_beside_what_others_wrote() {
        let owner = Owner {
            prefix: "tidemill".into(),
            handler: "h".into(),
            stream: "IN".into(),
            subjects: vec!["in.a".into(), "in.b".into()],
            created_unix: 7,
        };
        let mut metadata = HashMap::from([("_nats.ver".to_owned(), "2.15.1".to_owned())]);
        assert_eq!(Owner::read(&metadata), None);
        let settings = settings(&Config { max_deliver: 3, ..Config::default() });
        write(&mut metadata, &owner, &settings);
        assert_eq!(Owner::read(&metadata), Some(owner));
        assert_eq!(metadata["_nats.ver"], "2.15.1");
        assert!(recorded(&metadata).expect("settings").contains(&"max_deliver = 3".to_owned()));
    }
}
