//! Which streams a developer's server needs, so that the handlers of a manifest have something to consume and
//! their outputs somewhere to go. [`plan_streams`] decides, [`create`] carries it out. Of streams that exist, only those
//! are changed that a handler may make (`create_stream`): they are made wider.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::publication::repeats_within;
use tidemill_policy::reach::keyvalue::buckets;
use tidemill_policy::subject::{covers, overlaps};

use crate::broker::nats::connect::{self, ConnectError, Target};
use crate::broker::nats::streams::{self, StreamError, dead_letter_stream, retry_stream};
use crate::broker::nats::{Nats, keyvalue};

/// What is to be made, and what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    /// The subjects of each stream to make, by its name.
    pub streams: BTreeMap<String, Vec<String>>,
    /// Subjects for which no stream can be chosen, each with the reason and the remedy.
    pub warnings: Vec<String>,
}

/// Plans the streams that are missing, given the subjects of those that exist.
///
/// A handler's stream is the one it names, else one named after the first token of its subject in upper case,
/// which stores everything below that token as far as no other stream does. What handlers may publish is
/// stored in the same way.
pub fn plan_streams(manifest: &Manifest, existing: &BTreeMap<String, Vec<String>>) -> Plan {
    let mut planner = Planner { existing: existing.clone(), plan: Plan::default() };
    planner.reserve_own(manifest);
    let handlers = || manifest.handlers.values();
    for handler in handlers().filter(|handler| handler.stream.is_some()) {
        planner.named(handler);
    }
    for handler in handlers().filter(|handler| handler.stream.is_none()) {
        planner.unnamed(handler);
    }
    for handler in handlers() {
        for pattern in &handler.allow.publish {
            planner.outputs(handler, pattern);
        }
    }
    planner.plan
}

struct Planner {
    existing: BTreeMap<String, Vec<String>>,
    plan: Plan,
}

impl Planner {
    /// Our own streams are made when an instance starts; what they will store is taken.
    fn reserve_own(&mut self, manifest: &Manifest) {
        let prefix = &manifest.nats.prefix;
        let retry = [format!("{prefix}.retry.at.>"), format!("{prefix}.retry.due.>")];
        self.existing.entry(retry_stream(prefix)).or_default().extend(retry);
        let mut dead = vec![format!("{prefix}.deadletter.>")];
        let wanted = manifest.handlers.values().map(|handler| &handler.dead_letter.subject);
        dead.extend(wanted.filter(|subject| !self.is_stored(subject)).cloned());
        self.existing.entry(dead_letter_stream(prefix)).or_default().extend(dead);
    }

    /// A handler that names its stream: all its subjects belong there.
    fn named(&mut self, handler: &Handler) {
        let Some(name) = &handler.stream else { return };
        let stored = self.existing.get(name).cloned();
        // One that is there is made wider where a handler may make it.
        let stored = match stored {
            Some(_) if !handler.create_stream => return,
            stored => stored.unwrap_or_default(),
        };
        for subject in handler.subjects.iter().filter(|subject| !stored.iter().any(|one| covers(one, subject))) {
            self.add(name, subject);
        }
    }

    /// A handler that does not: one stream for all subjects that nothing stores, since a handler consumes
    /// one stream.
    fn unnamed(&mut self, handler: &Handler) {
        let mut home = None;
        for subject in &handler.subjects {
            if let Some(holder) = self.holder(subject) {
                // What is planned can still be made wide enough.
                if self.can_widen(&holder, subject) {
                    self.add(&holder, subject);
                }
                home.get_or_insert(holder);
                continue;
            }
            let name = home.clone().filter(|name| self.plan.streams.contains_key(name));
            let name = name.filter(|_| first_token(subject).is_some()).or_else(|| self.new_name(subject));
            let Some(name) = name else {
                self.plan.warnings.push(format!(
                    "handler.{}: no stream can be chosen for subject {subject:?}, which begins with a wildcard; \
                     say which with stream and create_stream = true",
                    handler.name
                ));
                continue;
            };
            self.add_widely(&name, subject);
            home = Some(name);
        }
    }

    /// A pattern that a handler may publish on.
    fn outputs(&mut self, handler: &Handler, pattern: &str) {
        if self.is_stored(pattern) {
            return;
        }
        let holder = self.holder(pattern);
        let widened = holder.clone().filter(|name| self.can_widen(name, pattern));
        let new = || self.new_name(pattern).filter(|_| holder.is_none());
        match (widened, new()) {
            (Some(name), _) => self.add(&name, pattern),
            (None, Some(name)) => self.add_widely(&name, pattern),
            (None, None) => self.plan.warnings.push(format!(
                "handler.{}: not every subject of allow.publish {pattern:?} is stored by a stream; \
                 outputs on the others fail until one does",
                handler.name
            )),
        }
    }

    fn all(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.existing.iter().chain(&self.plan.streams)
    }

    /// Whether one stream stores all that `pattern` selects.
    fn is_stored(&self, pattern: &str) -> bool {
        self.all().any(|(_, subjects)| subjects.iter().any(|one| covers(one, pattern)))
    }

    /// A stream that stores some of what `pattern` selects.
    fn holder(&self, pattern: &str) -> Option<String> {
        let holds = |subjects: &[String]| subjects.iter().any(|one| overlaps(one, pattern));
        self.all().find(|(_, subjects)| holds(subjects)).map(|(name, _)| name.clone())
    }

    /// Whether a stream is only planned, and can store `pattern` as well.
    fn can_widen(&self, name: &String, pattern: &str) -> bool {
        self.plan.streams.contains_key(name) && first_token(pattern).is_some() && self.is_free(pattern, Some(name))
    }

    /// Whether no stream but `except` stores anything that `pattern` selects: the server allows no overlap.
    fn is_free(&self, pattern: &str, except: Option<&String>) -> bool {
        let mut others = self.all().filter(|(name, _)| Some(*name) != except);
        others.all(|(_, subjects)| !subjects.iter().any(|one| overlaps(one, pattern)))
    }

    /// The name of a stream for `pattern`; nothing where its first token is a wildcard.
    fn new_name(&self, pattern: &str) -> Option<String> {
        let first = first_token(pattern)?.to_uppercase();
        let name = first.replace(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'), "_");
        let names = (1..).map(|number| if number == 1 { name.clone() } else { format!("{name}_{number}") });
        names.into_iter().find(|name| !self.existing.contains_key(name))
    }

    /// Adds everything below the first token of `pattern`, or as much of it as is free.
    fn add_widely(&mut self, name: &str, pattern: &str) {
        let name = name.to_owned();
        if let Some(first) = first_token(pattern) {
            let below = format!("{first}.>");
            if self.is_free(&below, Some(&name)) {
                self.add(&name, &below);
            }
        }
        self.add(&name, pattern);
    }

    /// Adds a pattern to a planned stream, without patterns that another one covers.
    fn add(&mut self, name: &str, pattern: &str) {
        let subjects = self.plan.streams.entry(name.to_owned()).or_default();
        if subjects.iter().any(|one| covers(one, pattern)) {
            return;
        }
        subjects.retain(|one| !covers(pattern, one));
        subjects.push(pattern.to_owned());
    }
}

fn first_token(pattern: &str) -> Option<&str> {
    pattern.split('.').next().filter(|token| !["*", ">", ""].contains(token))
}

/// Why streams cannot be provided.
#[derive(Debug, Error)]
pub enum ProvideError {
    /// There is no connection.
    #[error("{0}; is the server running, and are the URL and the credentials right?")]
    Connect(#[from] ConnectError),
    /// The server refuses, or does not answer.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Makes the streams and the buckets that the handlers of a manifest lack.
///
/// # Errors
/// Where there is no connection, or the first stream that the server refuses.
pub async fn provide(target: &Target, manifest: &Manifest) -> Result<Plan, ProvideError> {
    let (client, link) = connect::connect(target, "tidemill dev", Arc::default()).await?;
    let nats = Nats::new(client, link);
    // A clearer answer than a list of streams gives where there is no JetStream.
    streams::api(&nats).await?;
    let mut plan = plan_streams(manifest, &streams::list(&nats).await?);
    create(&nats, manifest, &plan).await?;
    for (name, handler) in &manifest.handlers {
        for (bucket, _) in buckets(&handler.allow.keyvalue) {
            if let Err(error) = keyvalue::provide(&nats.context, &bucket).await {
                plan.warnings.push(format!("handler.{name}: allow.keyvalue: {error}"));
            }
        }
    }
    Ok(plan)
}

/// Makes the streams of a plan, which recognise duplicates for as long as any handler may take to repeat them.
///
/// # Errors
/// The first one that the server refuses.
pub async fn create(nats: &Nats, manifest: &Manifest, plan: &Plan) -> Result<(), StreamError> {
    let within = manifest.handlers.values().map(repeats_within).max().unwrap_or_default();
    let together = manifest.stored_together();
    for (name, subjects) in &plan.streams {
        streams::provide(nats, name, subjects, within, &together).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_policy::manifest::{self, Source};

    /// Plans for a manifest, and shows each stream as `NAME: subject subject`, then the warnings.
    #[track_caller]
    fn check(existing: &[(&str, &str)], handlers: &str, expected: &[&str]) {
        let source = Source { path: "tidemill.toml", text: handlers };
        let manifest = manifest::parse(source, &[], &|_| None).expect("a valid manifest").manifest;
        let owned = |(name, subjects): &(&str, &str)| {
            ((*name).to_owned(), subjects.split(' ').map(str::to_owned).collect::<Vec<_>>())
        };
        let plan = plan_streams(&manifest, &existing.iter().map(owned).collect());
        let streams = plan.streams.iter().map(|(name, subjects)| format!("{name}: {}", subjects.join(" ")));
        let shown: Vec<_> = streams.chain(plan.warnings.clone()).collect();
        assert_eq!(shown.len(), expected.len(), "{shown:?}");
        for (shown, expected) in shown.iter().zip(expected) {
            assert!(shown.contains(expected), "{shown:?} does not contain {expected:?}");
        }
        assert_disjoint(&plan);
    }

    /// The server refuses streams whose subjects overlap.
    #[track_caller]
    fn assert_disjoint(plan: &Plan) {
        let all: Vec<_> = plan.streams.values().flatten().collect();
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| !overlaps(one, other)), "{plan:?}");
        }
    }

    #[test]
    fn a_stream_is_named_after_the_first_token() {
        check(&[], "[handler.a]\nsubject = 'orders.placed'", &["ORDERS: orders.>"]);
        check(&[], "[handler.a]\nsubject = 'orders.*.x'\n[handler.b]\nsubject = 'orders.>'", &["ORDERS: orders.>"]);
        check(&[], "[handler.a]\nsubject = 'orders'", &["ORDERS: orders.> orders"]);
        check(&[], "[handler.a]\nsubject = 'a/b.c'", &["A_B: a/b.>"]);
    }

    #[test]
    fn a_named_stream_stores_what_its_handlers_want() {
        check(&[], "[handler.a]\nsubject = 'x.y'\nstream = 'S'", &["S: x.y"]);
        let two = "[handler.a]\nsubject = 'x.y'\nstream = 'S'\n[handler.b]\nsubject = 'x.>'\nstream = 'S'";
        check(&[], two, &["S: x.>"]);
        check(&[("S", "x.y")], two, &[]);
    }

    #[test]
    fn a_stream_that_a_handler_may_make_is_made_wider() {
        let one = "[handler.a]\nsubject = ['x.y', 'x.z']\nstream = 'S'\ncreate_stream = true";
        check(&[("S", "x.y")], one, &["S: x.z"]);
        check(&[("S", "x.>")], one, &[]);
    }

    #[test]
    fn nothing_is_made_that_is_there_already() {
        check(&[("S", "orders.>")], "[handler.a]\nsubject = 'orders.placed'", &[]);
        check(&[("S", "orders.placed")], "[handler.a]\nsubject = 'orders.*'", &[]);
        check(&[("ORDERS", "other.>")], "[handler.a]\nsubject = 'orders.placed'", &["ORDERS_2: orders.>"]);
    }

    #[test]
    fn a_handler_with_several_subjects_gets_one_stream() {
        check(&[], "[handler.a]\nsubject = ['a.x', 'b.y', 'a.z']", &["A: a.> b.>"]);
    }

    #[test]
    fn streams_leave_alone_what_others_store() {
        let two = "[handler.a]\nsubject = 'order.placed'\nstream = 'S'\n[handler.b]\nsubject = 'order.shipped'";
        check(&[], two, &["ORDER: order.shipped", "S: order.placed"]);
        let wide = "[handler.a]\nsubject = 'order.placed'\nstream = 'S'\n[handler.b]\nsubject = 'order.>'";
        check(&[], wide, &["S: order.>"]);
    }

    #[test]
    fn dead_letters_do_not_land_among_the_events() {
        let own = "[handler.a]\nsubject = 'r.mail'\ndead_letter = { subject = 'r.mail_deadletter' }";
        check(&[], own, &["R: r.mail"]);
        check(&[], &format!("{own}\n[handler.b]\nsubject = 'r.mail_deadletter'"), &["R: r.mail"]);
    }

    #[test]
    fn outputs_have_somewhere_to_go() {
        let one = "[handler.a]\nsubject = 'a.x'\nallow = { publish = ['mail.sent', 'mail.>', 'a.y', 'out'] }";
        check(&[], one, &["A: a.>", "MAIL: mail.>", "OUT: out.> out"]);
        check(&[("M", "mail.sent"), ("A", "a.>"), ("O", "out")], one, &["allow.publish \"mail.>\""]);
    }

    #[test]
    fn what_begins_with_a_wildcard_is_warned_about() {
        check(&[], "[handler.a]\nsubject = '*.placed'", &["\"*.placed\", which begins with a wildcard"]);
        let any = "[handler.a]\nsubject = 'a.x'\nallow = { publish = ['*.sent'] }";
        check(&[], any, &["A: a.>", "allow.publish \"*.sent\""]);
    }
}
