//! What the user may do, as the server tells it, against every subject that we need.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tidemill_policy::latest;
use tidemill_policy::manifest::{Handler, Manifest, Mode};
use tidemill_policy::marker;
use tidemill_policy::order;
use tidemill_policy::publication::{retries_through_stream, retry_due_filters};
use tidemill_policy::subject;
use tokio::time::{Instant, timeout};

use super::super::connect::acknowledgements;
use super::super::routes::{Answer, LIST_SUBJECT};
use super::super::streams::{dead_letter_stream, retry_consumer, retry_stream};
use super::super::{Nats, markers, objects, partitions, pause};
use super::Findings;
use crate::service;

/// The subject that tells what the user may do.
const USER_INFO_SUBJECT: &str = "$SYS.REQ.USER.INFO";
/// How long the answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A user, as the server tells it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in super::super) struct User {
    #[serde(default)]
    user: String,
    permissions: Option<Permissions>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Permissions {
    publish: Option<Subjects>,
    subscribe: Option<Subjects>,
    /// Whether requests may be answered, on whatever subject they want the answer.
    responses: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Subjects {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

/// How much of a pattern a user may publish on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    Nothing,
    Part,
    All,
}

/// A subject that we publish on.
#[derive(Debug, Clone)]
pub(super) struct Need {
    subject: String,
    /// What for: "handler.h needs to …".
    why: String,
    /// How much of it must be granted. What lacks of the rest is worth a warning.
    least: Share,
}

impl Need {
    pub(super) fn publish(subject: String, why: impl Into<String>) -> Need {
        Need { subject, why: why.into(), least: Share::All }
    }
}

impl User {
    pub(in super::super) fn may_publish(&self, pattern: &str) -> bool {
        self.share(pattern) == Share::All
    }

    /// What it lacks, for people.
    pub(in super::super) fn lacks(&self, pattern: &str) -> String {
        format!("user {:?} may not publish on {pattern:?}; grant it (permissions, publish, allow)", self.user)
    }

    /// How much of a pattern the user may publish on.
    fn share(&self, pattern: &str) -> Share {
        self.permissions.as_ref().and_then(|all| all.publish.as_ref()).map_or(Share::All, |list| list.share(pattern))
    }

    fn may_subscribe(&self, pattern: &str) -> bool {
        let subjects = self.permissions.as_ref().and_then(|all| all.subscribe.as_ref());
        subjects.is_none_or(|list| list.share(pattern) == Share::All)
    }

    fn may_answer(&self) -> bool {
        self.may_publish("_INBOX.>") || self.permissions.as_ref().is_some_and(|all| all.responses.is_some())
    }
}

impl Subjects {
    fn share(&self, pattern: &str) -> Share {
        let Subjects { allow, deny } = self;
        let (allow, deny) = (allow.as_deref().unwrap_or_default(), deny.as_deref().unwrap_or_default());
        let covered = |list: &[String]| list.iter().any(|one| subject::covers(one, pattern));
        let touched = |list: &[String]| list.iter().any(|one| subject::overlaps(one, pattern));
        if covered(deny) || !(allow.is_empty() || touched(allow)) {
            return Share::Nothing;
        }
        if touched(deny) || !(allow.is_empty() || covered(allow)) { Share::Part } else { Share::All }
    }
}

/// What tells whether something still has an event of which another message has arrived. Without it, that is taken for
/// granted, which is worth a warning.
fn of_carriers(handler: &Handler, prefix: &str) -> Vec<Need> {
    let why = format!("handler.{} needs it to tell repeats from events that have ended in nothing", handler.name);
    let own = [retry_stream(prefix), dead_letter_stream(prefix)];
    let streams = handler.stream.iter().cloned().chain(own);
    let subjects = streams.map(|stream| format!("$JS.API.STREAM.MSG.GET.{stream}"));
    subjects.map(|subject| Need { subject, why: why.clone(), least: Share::Nothing }).collect()
}

/// Asks who we are; nothing where the server does not tell.
pub(super) async fn ask(nats: &Nats, findings: &mut Findings) -> Option<User> {
    let since = Instant::now();
    match question(nats, since).await {
        Answer::Is(user) => Some(user),
        Answer::Denial => {
            let text = "what the user may do cannot be checked, since it may not publish on \"$SYS.REQ.USER.INFO\"";
            findings.warn(text.to_owned());
            None
        }
        Answer::Silence => {
            if let Some(denial) = nats.link.any_denial_since(since) {
                findings.conflict(format!("no answer reaches us ({denial}); grant subscribe on \"_INBOX.>\""));
            }
            None
        }
    }
}

/// Who we are, as the server tells it now; nothing where it does not tell.
pub(in super::super) async fn told(nats: &Nats) -> Option<User> {
    match question(nats, Instant::now()).await {
        Answer::Is(user) => Some(user),
        Answer::Denial | Answer::Silence => None,
    }
}

async fn question(nats: &Nats, since: Instant) -> Answer<User> {
    #[derive(Deserialize)]
    struct Told {
        data: User,
    }
    let answer = tokio::select! {
        answer = timeout(ANSWER_MAX, nats.client.request(USER_INFO_SUBJECT, "".into())) => answer,
        _ = nats.link.until_denied(USER_INFO_SUBJECT, since) => return Answer::Denial,
    };
    let told = answer.ok().and_then(Result::ok);
    let told = told.and_then(|message| serde_json::from_slice::<Told>(&message.payload).ok());
    told.map_or(Answer::Silence, |told| Answer::Is(told.data))
}

/// Compares what is needed with what the user may do.
pub(super) fn check(user: &User, needs: &[Need], findings: &mut Findings) {
    for Need { subject, why, least } in needs {
        let name = &user.user;
        let share = user.share(subject);
        let lacks =
            format!("user {name:?} may not publish on {subject:?}, and {why}; grant it (permissions, publish, allow)");
        match share {
            Share::All => {}
            _ if share < *least => findings.conflict(lacks),
            Share::Nothing => findings.warn(lacks),
            Share::Part => findings.warn(format!(
                "user {name:?} may publish on a part of {subject:?} only, and {why}; grant all of it (permissions, \
                 publish, allow), or narrow the manifest"
            )),
        }
    }
}

/// Whether the user may be found as a service. Nothing else depends on it.
pub(super) fn check_service(user: &User, prefix: &str, findings: &mut Findings) {
    let space = format!("{}.>", service::space(prefix));
    let subjects = ["$SRV.>".to_owned(), space];
    if user.may_answer() && subjects.iter().all(|subject| user.may_subscribe(subject)) {
        return;
    }
    findings.is_hidden = true;
    findings.warn(format!(
        "instances of user {:?} are not registered as a service, so that tidemill status and nats micro do not find them; \
         grant subscribe on {:?} and {:?}, and allow_responses",
        user.user, subjects[0], subjects[1],
    ));
}

/// Whether changes of the bucket that components come from are heard. Without that, they are found a little later.
pub(super) fn check_bucket(user: &User, manifest: &Manifest, findings: &mut Findings) {
    let Some(bucket) = &manifest.runtime.bucket else { return };
    let subject = objects::changes_of(bucket);
    if !user.may_subscribe(&subject) {
        findings.warn(format!(
            "user {:?} may not subscribe to {subject:?}, so that what is deployed is noticed some seconds later only; grant \
             it (permissions, subscribe, allow)",
            user.user
        ));
    }
}

/// What a manifest needs, as far as it says so itself.
pub(super) fn needs(manifest: &Manifest) -> Vec<Need> {
    let prefix = &manifest.nats.prefix;
    let mut needs = vec![Need::publish("$JS.API.INFO".to_owned(), "we need to ask what the server can do")];
    for stream in [retry_stream(prefix), dead_letter_stream(prefix)] {
        needs.push(Need::publish(format!("$JS.API.STREAM.INFO.{stream}"), "we need to look at our own stream"));
    }
    if let Some(bucket) = &manifest.runtime.bucket {
        let stream = objects::stream_of(bucket);
        for subject in [format!("$JS.API.STREAM.INFO.{stream}"), format!("$JS.API.STREAM.MSG.GET.{stream}")] {
            needs.push(Need::publish(subject, "runtime.plugins needs it to read components from their bucket"));
        }
    }
    for handler in manifest.handlers.values() {
        let name = &handler.name;
        if let Some(stream) = &handler.stream {
            needs.extend(of_input(handler, stream));
        } else {
            let why = format!("handler.{name} needs it to find its stream, which it does not name");
            needs.push(Need::publish(LIST_SUBJECT.to_owned(), why));
        }
        if retries_through_stream(handler) {
            needs.push(Need::publish(format!("{prefix}.retry.>"), format!("handler.{name} needs it for retries")));
            let filters = retry_due_filters(prefix, name);
            let consumer = retry_consumer(prefix, name);
            needs.extend(of_consumer(name, &retry_stream(prefix), &consumer, &filters));
            needs.extend(of_breaker(handler, &retry_stream(prefix), &consumer));
        }
        if let Some(count) = handler.partitions() {
            needs.extend(of_partitions(handler, prefix, count));
        }
        let why = format!("handler.{name} needs it for dead letters");
        needs.push(Need::publish(handler.dead_letter.subject.clone(), why));
        for pattern in &handler.allow.publish {
            let why = format!("handler.{name} is allowed to by allow.publish");
            needs.push(Need { subject: pattern.clone(), why, least: Share::Part });
        }
        if handler.dedup.is_some() {
            needs.extend(of_carriers(handler, prefix));
        }
        if marker::keeps(handler) {
            let (stream, keys) = (markers::stream(prefix), markers::subject(&markers::bucket(prefix), ">"));
            for subject in [format!("$JS.API.STREAM.INFO.{stream}"), format!("$JS.API.DIRECT.GET.{stream}.>"), keys] {
                needs.push(Need::publish(
                    subject,
                    format!("handler.{name} needs it to remember what has become of events"),
                ));
            }
        }
        if handler.dedup.is_some() || handler.parks() || latest::policy(handler).is_some() {
            let why = format!("handler.{name} needs it to look up several events at once; it does so one by one");
            let subject = format!("$JS.API.DIRECT.GET.{}", markers::stream(prefix));
            needs.push(Need { subject, why, least: Share::Nothing });
        }
    }
    needs
}

/// What is needed to read markers that have replicas.
pub(super) fn of_leader(bucket: &str) -> Need {
    let why = "markers that have replicas are read from their leader";
    Need::publish(format!("$JS.API.STREAM.MSG.GET.{bucket}"), why)
}

/// What a handler needs of the stream that stores its outputs together.
pub(super) fn of_batches(handler: &Handler, stream: &str) -> Need {
    let why =
        format!("handler.{} needs it to tell how much of its outputs is stored (outputs = \"atomic\")", handler.name);
    Need::publish(format!("$JS.API.STREAM.MSG.GET.{stream}"), why)
}

/// What a handler needs of its input stream.
pub(super) fn of_input(handler: &Handler, stream: &str) -> Vec<Need> {
    let name = &handler.name;
    let broadcast = handler.mode == Mode::Broadcast;
    // The consumer of a broadcast handler has the instance in its name.
    let consumer = if broadcast { "*" } else { handler.durable.as_str() };
    let needed = |subject: String, what: &str| Need::publish(subject, format!("handler.{name} needs it {what}"));
    let mut needs = vec![
        needed(format!("$JS.API.STREAM.INFO.{stream}"), "to look at its stream"),
        needed(format!("$JS.API.STREAM.MSG.GET.{stream}"), "to take away messages that no client can read"),
    ];
    if handler.partitions().is_none() {
        needs.extend(of_consumer(name, stream, consumer, &handler.subjects));
        needs.extend(of_breaker(handler, stream, consumer));
    }
    if broadcast {
        needs.push(needed(format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"), "to remove its consumer"));
    }
    needs
}

/// What a handler needs of its partitions.
fn of_partitions(handler: &Handler, prefix: &str, count: u32) -> Vec<Need> {
    let name = &handler.name;
    let stream = partitions::stream(prefix, name);
    let needed = |subject: String, what: &str| Need::publish(subject, format!("handler.{name} needs it {what}"));
    let mut needs = vec![
        needed(format!("$JS.API.STREAM.INFO.{stream}"), "to look at its partitions"),
        needed(format!("$JS.API.STREAM.CREATE.{stream}"), "to make its partitions"),
        needed(format!("$JS.API.STREAM.MSG.GET.{stream}"), "to take away messages that no client can read"),
        needed(order::partition_space(prefix, name), "to bring dead letters back into their partitions"),
    ];
    for number in 0..count {
        let filter = order::partition_filter(prefix, name, number);
        let consumer = partitions::consumer(handler, number);
        needs.extend(of_consumer(name, &stream, &consumer, &[filter]));
        needs.extend(of_breaker(handler, &stream, &consumer));
    }
    needs
}

fn of_consumer(handler: &str, stream: &str, consumer: &str, filters: &[String]) -> Vec<Need> {
    let create = match filters {
        [only] => format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{only}"),
        _ => format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
    };
    [
        (create, "to make its consumer"),
        (format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), "to look at its consumer"),
        (format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"), "to pull events"),
        (acknowledgements(stream, consumer), "to acknowledge events"),
    ]
    .into_iter()
    .map(|(subject, what)| Need::publish(subject, format!("handler.{handler} needs it {what}")))
    .collect()
}

/// What a circuit breaker needs of a consumer. Without one, a handler can be stopped by hand all the same: then its
/// instances stop pulling.
fn of_breaker(handler: &Handler, stream: &str, consumer: &str) -> Option<Need> {
    handler.circuit_breaker?;
    let why = format!("handler.{} needs it for circuit_breaker", handler.name);
    Some(Need::publish(pause::subject(stream, consumer), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(allow: &[&str], deny: &[&str]) -> User {
        let list = |subjects: &[&str]| Some(subjects.iter().map(|&one| one.to_owned()).collect());
        let publish = Some(Subjects { allow: list(allow), deny: list(deny) });
        User { user: "u".into(), permissions: Some(Permissions { publish, ..Permissions::default() }) }
    }

    #[test]
    fn a_pattern_is_granted_as_a_whole_in_part_or_not_at_all() {
        let rows: &[(&[&str], &[&str], &str, Share)] = &[
            (&[], &[], "a.>", Share::All),
            (&["a.>"], &[], "a.b.*", Share::All),
            (&["a.b"], &[], "a.>", Share::Part),
            (&["b"], &[], "a.>", Share::Nothing),
            (&[], &["a.b"], "a.>", Share::Part),
            (&["a.>"], &["a.b"], "a.b", Share::Nothing),
            (&["a.>"], &["a.b"], "a.c", Share::All),
        ];
        for (allow, deny, pattern, expected) in rows {
            assert_eq!(user(allow, deny).share(pattern), *expected, "{allow:?} {deny:?} {pattern}");
        }
        assert_eq!(User::default().share("a"), Share::All);
    }

    #[test]
    fn what_is_only_for_speed_is_a_warning() {
        let need = |least| Need { subject: "a.>".into(), why: "it helps".into(), least };
        let rows: &[(&[&str], Share, usize, usize)] = &[
            (&["a.>"], Share::All, 0, 0),
            (&["a.b"], Share::All, 1, 0),
            (&["a.b"], Share::Part, 0, 1),
            (&["b"], Share::Part, 1, 0),
            (&["a.b"], Share::Nothing, 0, 1),
            (&["b"], Share::Nothing, 0, 1),
        ];
        for (allow, least, conflicts, warnings) in rows {
            let mut findings = Findings::default();
            check(&user(allow, &[]), &[need(*least)], &mut findings);
            let found = (findings.conflicts.len(), findings.warnings.len());
            assert_eq!(found, (*conflicts, *warnings), "{allow:?} {least:?}: {findings:?}");
        }
    }

    #[test]
    fn whoever_may_subscribe_and_answer_can_be_found() {
        let found = |permissions: serde_json::Value| {
            let user: User = serde_json::from_value(serde_json::json!({ "permissions": permissions })).expect("a user");
            let mut findings = Findings::default();
            check_service(&user, "tidemill", &mut findings);
            assert_eq!(findings.is_hidden, !findings.warnings.is_empty());
            !findings.is_hidden
        };
        let both = serde_json::json!({ "allow": ["_INBOX.>", "$SRV.>", "tidemill.service.>"] });
        assert!(found(serde_json::Value::Null));
        assert!(found(
            serde_json::json!({ "subscribe": both, "publish": { "allow": ["a"] }, "responses": { "max": 1 } })
        ));
        assert!(found(serde_json::json!({ "subscribe": both, "publish": { "allow": ["_INBOX.>"] } })));
        assert!(!found(serde_json::json!({ "subscribe": both, "publish": { "allow": ["a"] } })));
        assert!(!found(serde_json::json!({ "subscribe": { "allow": ["_INBOX.>", "$SRV.>"] } })));
        assert!(!found(serde_json::json!({ "subscribe": { "deny": ["$SRV.>"] } })));
    }

    #[test]
    fn conflicts_name_the_user_and_the_subject() {
        let mut findings = Findings::default();
        let need = |least| Need { subject: "out.>".into(), why: "handler.h needs it".into(), least };
        check(&user(&["out.a"], &[]), &[need(Share::Part), need(Share::All)], &mut findings);
        let conflict =
            "user \"u\" may not publish on \"out.>\", and handler.h needs it; grant it (permissions, publish, allow)";
        assert_eq!(findings.conflicts, [conflict]);
        assert!(findings.warnings[0].starts_with("user \"u\" may publish on a part of \"out.>\" only"), "{findings:?}");
    }
}
