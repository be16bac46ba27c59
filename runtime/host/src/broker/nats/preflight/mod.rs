//! What the manifest asks for against what the server is set to: every contradiction is found before anything
//! is consumed, and names both sides and what helps. Nothing is changed here.

pub(super) mod permissions;
mod streams_fit;

use std::collections::BTreeMap;
use std::fmt;

use async_nats::jetstream::stream::Config;
use futures::{StreamExt, stream};
use serde::de::IgnoredAny;
use serde_json::Value;
use thiserror::Error;
use tidemill_policy::in_flight;
use tidemill_policy::manifest::{Handler, Manifest, Outputs};
use tidemill_policy::marker;
use tidemill_policy::reach::keyvalue::buckets;
use tidemill_policy::subject;

use super::ask::{self, AskError};
use super::own::Kind;
use super::routes::{LIST_SUBJECT, NAMES_SUBJECT};
use super::streams::{self, Api, MESSAGE_TTL_API_LEVEL, StreamError};
use super::{ASKED_AT_ONCE, Nats, markers, partitions};

/// The oldest server that has what we need: filters over several subjects, and names of consumers in requests.
const VERSION_MIN: (u64, u64) = (2, 10);

/// The API level and the version from which the server stores messages with ids together: in 2.12.0 they had none.
const BATCHES_API_LEVEL: u64 = 2;
const BATCHES_VERSION_MIN: (u64, u64, u64) = (2, 12, 1);

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// What cannot go together.
    pub conflicts: Vec<String>,
    /// What may be meant as it is.
    pub warnings: Vec<String>,
    /// Whether instances of this user cannot be found as a service; there is a warning then.
    pub is_hidden: bool,
}

/// Contradictions between the manifest and the server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Conflicts(pub Vec<String>);

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => f.write_str(only),
            all => {
                write!(f, "the manifest and the NATS server contradict each other in {} points:", all.len())?;
                all.iter().try_for_each(|one| write!(f, "\n- {one}"))
            }
        }
    }
}

impl Findings {
    /// The conflicts as an error, if there are any.
    ///
    /// # Errors
    /// All conflicts.
    pub fn into_result(self) -> Result<(), Conflicts> {
        if self.conflicts.is_empty() { Ok(()) } else { Err(Conflicts(self.conflicts)) }
    }

    fn conflict(&mut self, text: String) {
        if !self.conflicts.contains(&text) {
            self.conflicts.push(text);
        }
    }

    fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
}

/// Compares a manifest with the server.
///
/// # Errors
/// Where the server does not answer, or has no JetStream.
pub async fn check(nats: &Nats, manifest: &Manifest) -> Result<Findings, StreamError> {
    let mut findings = Findings::default();
    version(&nats.client.server_info().version, &mut findings);
    let user = permissions::ask(nats, &mut findings).await;
    if let Some(user) = &user {
        permissions::check(user, &permissions::needs(manifest), &mut findings);
        permissions::check_service(user, &manifest.nats.prefix, &mut findings);
        permissions::check_bucket(user, manifest, &mut findings);
    }
    if !findings.conflicts.is_empty() {
        // What follows would not be answered.
        return Ok(findings);
    }
    let api = streams::api(nats).await?;
    claims(manifest, api, &nats.client.server_info().version, &mut findings);
    batches(manifest, api, &nats.client.server_info().version, &mut findings);
    if let Some(oddity) = in_flight::oddity(manifest, nats.client.server_info().max_payload as u64) {
        findings.warn(oddity);
    }
    let inputs = inputs(nats, manifest, &mut findings).await?;
    for handler in manifest.handlers.values() {
        let Some(input) = inputs.get(&handler.name) else { continue };
        streams_fit::input(handler, input, &mut findings);
        if let Some(conflict) = partitions::conflict(nats, handler, &manifest.nats, input).await? {
            findings.conflict(conflict);
        }
        let limit = streams::ack_pending_max(api.ack_pending_max, input);
        concurrency(handler, &input.name, limit, &mut findings);
        if let (None, Some(user)) = (&handler.stream, &user) {
            permissions::check(user, &permissions::of_input(handler, &input.name), &mut findings);
        }
    }
    let can_expire = api.level >= MESSAGE_TTL_API_LEVEL;
    own_streams(nats, manifest, user.as_ref(), &mut findings).await?;
    stored(nats, manifest, user.as_ref(), can_expire, &mut findings).await?;
    granted_buckets(nats, manifest, &mut findings).await;
    Ok(findings)
}

/// Compares a manifest that runs once more with the streams that are there: what stands against it by now.
///
/// # Errors
/// Where the server does not answer.
pub async fn look_again(nats: &Nats, manifest: &Manifest) -> Result<Vec<String>, StreamError> {
    let mut findings = Findings::default();
    for handler in manifest.handlers.values() {
        match streams::look_up(nats, handler).await {
            Ok(Some(info)) => streams_fit::input(handler, &info.config, &mut findings),
            Err(error @ StreamError::NotInStream { .. }) => findings.conflict(error.to_string()),
            Err(error @ StreamError::NoAnswer(_)) => return Err(error),
            // Who pulls from it misses it.
            _ => {}
        }
    }
    own_streams(nats, manifest, None, &mut findings).await?;
    Ok(findings.conflicts)
}

/// Looks whether there are the buckets that handlers are granted.
async fn granted_buckets(nats: &Nats, manifest: &Manifest, findings: &mut Findings) {
    for (name, handler) in &manifest.handlers {
        for (bucket, _) in buckets(&handler.allow.keyvalue) {
            let asked = ask::ask::<IgnoredAny>(nats, &format!("STREAM.INFO.KV_{bucket}"), &Value::Null).await;
            match asked {
                Ok(_) => {}
                Err(AskError::NotFound(_)) => findings.conflict(format!(
                    "handler.{name}: there is no bucket {bucket:?}, which allow.keyvalue grants; create it: nats kv add {bucket}"
                )),
                Err(error) => findings.warn(format!(
                    "handler.{name}: whether there is a bucket {bucket:?}, which allow.keyvalue grants, cannot be told: {error}"
                )),
            }
        }
    }
}

fn version(version: &str, findings: &mut Findings) {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u64>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return };
    if (major, minor) < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        findings
            .conflict(format!("the NATS server has version {version}, we need {major}.{minor} or later: upgrade it"));
    }
}

/// What needs messages with a time to live of their own, and has no substitute.
fn claims(manifest: &Manifest, api: Api, version: &str, findings: &mut Findings) {
    let claiming = |handler: &&Handler| handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
    for handler in manifest.handlers.values().filter(claiming).filter(|_| api.level < MESSAGE_TTL_API_LEVEL) {
        findings.conflict(format!(
            "handler.{}: dedup.claim = true needs messages with a time to live, which nats-server has from 2.11 on, \
             and this one is {version}; upgrade it, or set dedup.claim = false",
            handler.name
        ));
    }
}

/// Servers that know no batches would ignore them in silence.
fn batches(manifest: &Manifest, api: Api, version: &str, findings: &mut Findings) {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let number = (numbers.next(), numbers.next(), numbers.next());
    let is_old =
        matches!(number, (Some(major), Some(minor), Some(patch)) if (major, minor, patch) < BATCHES_VERSION_MIN);
    for handler in manifest.handlers.values().filter(|handler| handler.outputs == Outputs::Atomic) {
        if is_old || api.level < BATCHES_API_LEVEL {
            findings.conflict(format!(
                "handler.{}: outputs = \"atomic\" needs atomic batches, which nats-server has from 2.12.1 on, and this one is \
                 {version}; upgrade it, or set outputs = \"each\"",
                handler.name
            ));
        }
    }
}

/// The configurations of all input streams that exist, by their handlers.
async fn inputs(
    nats: &Nats,
    manifest: &Manifest,
    findings: &mut Findings,
) -> Result<BTreeMap<String, Config>, StreamError> {
    let mut inputs = BTreeMap::new();
    let asked: Vec<_> = manifest.handlers.values().map(|handler| streams::look_up(nats, handler)).collect();
    let found = stream::iter(asked).buffered(ASKED_AT_ONCE).collect::<Vec<_>>().await;
    for (handler, found) in manifest.handlers.values().zip(found) {
        match found {
            Ok(Some(info)) => {
                inputs.insert(handler.name.clone(), info.config);
            }
            Ok(None) => {}
            Err(error @ StreamError::NoAnswer(_)) => return Err(error),
            Err(error) => findings.conflict(error.to_string()),
        }
    }
    Ok(inputs)
}

/// A consumer that may have fewer messages in flight over all instances is made so; one instance's share is
/// the least that `concurrency` can be kept with.
fn concurrency(handler: &Handler, stream: &str, limit: Option<i64>, findings: &mut Findings) {
    let credit = streams::credit(handler);
    if handler.partitions().is_some() {
        return;
    }
    let too_many = |limit: &i64| *limit < i64::from(credit);
    if let (Some(window), Some(limit)) = (handler.window(), limit.filter(too_many)) {
        findings.conflict(format!(
            "handler.{}: order.window = {window} is as many messages in flight, but stream {stream:?} or its account allows \
             a consumer {limit} (max_ack_pending); lower order.window to {limit} or raise that limit",
            handler.name,
        ));
        return;
    }
    if let Some(limit) = limit.filter(too_many) {
        findings.conflict(format!(
            "handler.{}: concurrency = {} takes {credit} messages in flight, but stream {stream:?} or its account allows \
             a consumer {limit} (max_ack_pending); lower concurrency to {} or raise that limit",
            handler.name,
            handler.concurrency,
            (limit / 2).max(1),
        ));
    }
}

async fn own_streams(
    nats: &Nats,
    manifest: &Manifest,
    user: Option<&permissions::User>,
    findings: &mut Findings,
) -> Result<(), StreamError> {
    let prefix = &manifest.nats.prefix;
    let bucket = markers::stream(prefix);
    for name in [streams::retry_stream(prefix), streams::dead_letter_stream(prefix), bucket.clone()] {
        let present = streams::configuration(nats, &name).await?;
        let replicas = present.as_ref().map_or(manifest.nats.replicas as usize, |config| config.num_replicas);
        if let (true, true, Some(user)) = (name == bucket, replicas > 1, user) {
            permissions::check(user, &[permissions::of_leader(&bucket)], findings);
        }
        if let Some(config) = present {
            streams_fit::replicas(&manifest.nats, &config, findings);
            let update = format!("$JS.API.STREAM.UPDATE.{name}");
            let can_update = user.is_none_or(|user| user.may_publish(&update));
            own_stream(manifest, &config, can_update, findings);
        } else if let Some(user) = user {
            let need =
                permissions::Need::publish(format!("$JS.API.STREAM.CREATE.{name}"), "we need to make that stream");
            permissions::check(user, &[need], findings);
        }
    }
    Ok(())
}

/// Looks at one of our own streams.
fn own_stream(manifest: &Manifest, config: &Config, can_update: bool, findings: &mut Findings) {
    let prefix = &manifest.nats.prefix;
    if config.name == markers::stream(prefix) {
        streams_fit::markers(config, findings);
        streams_fit::ours(
            Kind::Markers(marker::lifetime_max(manifest.handlers.values())),
            config,
            can_update,
            findings,
        );
    } else if config.name == streams::retry_stream(prefix) {
        streams_fit::retry(manifest, config, findings);
        streams_fit::ours(Kind::Retries, config, can_update, findings);
    } else if config.name == streams::dead_letter_stream(prefix) {
        let ours =
            |handler: &&Handler| config.subjects.iter().any(|one| subject::covers(one, &handler.dead_letter.subject));
        for handler in manifest.handlers.values().filter(ours) {
            streams_fit::dead_letters(handler, config, findings);
        }
    }
}

/// Looks at the streams that store what handlers publish, as far as we may list them.
async fn stored(
    nats: &Nats,
    manifest: &Manifest,
    user: Option<&permissions::User>,
    can_expire: bool,
    findings: &mut Findings,
) -> Result<(), StreamError> {
    let ours = format!("{}.deadletter.>", manifest.nats.prefix);
    let is_stored_by_ours = |handler: &Handler| subject::covers(&ours, &handler.dead_letter.subject);
    if manifest.handlers.values().all(|handler| handler.allow.publish.is_empty() && is_stored_by_ours(handler)) {
        return Ok(());
    }
    let denied = |subject: &str| user.is_some_and(|user| !user.may_publish(subject));
    if denied(NAMES_SUBJECT) {
        findings.warn(format!(
            "an output's stream that has no leader for a while cannot be told from one that does not exist, since the user \
             may not publish on {NAMES_SUBJECT:?}"
        ));
    }
    let atomic = |handler: &&Handler| handler.outputs == Outputs::Atomic && !handler.allow.publish.is_empty();
    if denied(LIST_SUBJECT) {
        for handler in manifest.handlers.values().filter(atomic) {
            findings.conflict(format!(
                "handler.{}: outputs = \"atomic\" needs to know which stream stores which output, but the user may not publish \
                 on {LIST_SUBJECT:?}; grant it (permissions, publish, allow), or set outputs = \"each\"",
                handler.name
            ));
        }
        findings.warn(format!(
            "the streams that store outputs cannot be checked, since the user may not publish on {LIST_SUBJECT:?}"
        ));
        return Ok(());
    }
    let all = streams::configurations(nats).await?;
    for handler in manifest.handlers.values() {
        streams_fit::outputs(handler, &all, findings);
        if let Some(stream) = Some(handler).filter(atomic).and_then(|_| streams_fit::together(handler, &all, findings))
            && let Some(user) = user
        {
            permissions::check(user, &[permissions::of_batches(handler, stream)], findings);
        }
        for config in &all {
            let own = streams::dead_letter_stream(&manifest.nats.prefix);
            let holds = config.subjects.iter().any(|one| subject::covers(one, &handler.dead_letter.subject));
            if holds && config.name != own {
                streams_fit::dead_letters(handler, config, findings);
                if can_expire {
                    streams_fit::expiry(handler, config, findings);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_2_10_are_refused() {
        let refused = |text: &str| {
            let mut findings = Findings::default();
            version(text, &mut findings);
            findings.into_result().err().map(|error| error.to_string())
        };
        let expected = "the NATS server has version 2.9.25, we need 2.10 or later: upgrade it";
        assert_eq!(refused("2.9.25").as_deref(), Some(expected));
        assert!(refused("1.4.0").is_some());
        for accepted in ["2.10.0", "2.10.26-RC.1", "2.15.1", "3.0.0", "unknown"] {
            assert_eq!(refused(accepted), None, "{accepted}");
        }
    }

    #[test]
    fn claims_need_a_server_with_a_time_to_live_for_messages() {
        let text = "[handler.h]\nsubject = \"a\"\nstream = \"S\"\ndedup = { key = \"id\", claim = true }\n";
        let source = tidemill_policy::manifest::Source { path: "tidemill.toml", text };
        let manifest = tidemill_policy::manifest::parse(source, &[], &|_| None).expect("valid").manifest;
        let found = |level| {
            let mut findings = Findings::default();
            claims(&manifest, Api { level, ack_pending_max: None }, "2.10.26", &mut findings);
            findings.conflicts
        };
        let expected = "handler.h: dedup.claim = true needs messages with a time to live, which nats-server has from \
                        2.11 on, and this one is 2.10.26; upgrade it, or set dedup.claim = false";
        assert_eq!(found(0), [expected]);
        assert!(found(MESSAGE_TTL_API_LEVEL).is_empty());
    }

    #[test]
    fn outputs_that_are_stored_together_need_a_server_that_can() {
        let text = "[handler.h]\nsubject = \"a\"\nstream = \"S\"\noutputs = \"atomic\"\n";
        let source = tidemill_policy::manifest::Source { path: "tidemill.toml", text };
        let manifest = tidemill_policy::manifest::parse(source, &[], &|_| None).expect("valid").manifest;
        let found = |level, version| {
            let mut findings = Findings::default();
            batches(&manifest, Api { level, ack_pending_max: None }, version, &mut findings);
            findings.conflicts
        };
        let expected = "handler.h: outputs = \"atomic\" needs atomic batches, which nats-server has from 2.12.1 on, and this \
                        one is 2.12.0; upgrade it, or set outputs = \"each\"";
        assert_eq!(found(2, "2.12.0"), [expected]);
        for (level, version, refused) in [
            (1, "2.11.11", true),
            (0, "unknown", true),
            (2, "2.12.0-RC.1", true),
            (2, "2.12.1", false),
            (4, "2.14.0-RC.1", false),
            (5, "unknown", false),
        ] {
            assert_eq!(!found(level, version).is_empty(), refused, "{version}");
        }
    }

    #[test]
    fn several_conflicts_are_a_list() {
        let both = Conflicts(vec!["a".into(), "b".into()]);
        assert_eq!(both.to_string(), "the manifest and the NATS server contradict each other in 2 points:\n- a\n- b");
    }
}
