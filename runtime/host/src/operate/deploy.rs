//! Whether the instances have taken a component that was put into their bucket.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::instances::{self, Instance};
use crate::broker::nats::Nats;
use crate::broker::nats::ask::AskError;

/// How long to wait before the instances are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What the instances are to take.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The handler.
    pub handler: &'a str,
    /// The digest of its component.
    pub digest: &'a str,
    /// The sequence in the bucket from which on all of it is there: a reload that began before tells nothing.
    pub sequence: u64,
    /// Whether the handler's table is in the bucket, so that all instances with this bucket run it.
    pub is_drop_in: bool,
    /// Whether its table was changed, so that to run the component is not enough.
    pub has_new_table: bool,
}

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It runs the component.
    Runs,
    /// It runs the component beside the one before.
    OnTrial,
    /// It has refused what is in the bucket.
    Refused,
    /// It has not got to it.
    Waiting,
}

/// What an instance has made of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taken {
    /// The instance.
    pub instance: String,
    /// How far it is.
    pub progress: Progress,
    /// The digest of the component that it runs for the handler; nothing where it does not run the handler.
    pub component: Option<String>,
    /// The share of events that the component gets while it is on trial.
    pub share: Option<f64>,
    /// Why it was refused, or what is in the way.
    pub problems: Vec<String>,
}

/// Asks the instances until each of them runs the component or has refused it, for `limit` at most. No instance is none that
/// has taken it.
///
/// # Errors
/// Where the server denies the question, or nothing can be sent.
pub async fn wait(nats: &Nats, prefix: &str, wanted: &Wanted<'_>, limit: Duration) -> Result<Vec<Taken>, AskError> {
    let end = Instant::now() + limit;
    loop {
        let found = instances::find(nats, prefix).await?;
        let taken: Vec<_> = found.iter().filter_map(|one| look(one, wanted)).collect();
        let is_settled = !taken.is_empty() && taken.iter().all(|one| one.progress != Progress::Waiting);
        if is_settled || Instant::now() >= end {
            return Ok(taken);
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// What an instance has made of it; nothing where it need not.
fn look(instance: &Instance, wanted: &Wanted<'_>) -> Option<Taken> {
    let bucket = instance.bucket.as_ref().filter(|bucket| bucket.name == wanted.bucket)?;
    let handler = instance.handlers.get(wanted.handler);
    if handler.is_none() && !wanted.is_drop_in {
        return None;
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let component = handler.and_then(|told| text(told.get("component")));
    let trial = handler.and_then(|told| told.get("trial"));
    let is_loaded = !wanted.has_new_table || bucket.sequence >= wanted.sequence;
    let is_wanted = |digest: Option<String>| is_loaded && digest.as_deref() == Some(wanted.digest);
    let refusal = instance.last_reload.as_ref().filter(|last| !last.ok);
    let refusal = refusal.filter(|last| last.bucket_sequence.is_some_and(|sequence| sequence >= wanted.sequence));
    let (progress, problems) = match refusal {
        _ if is_wanted(component.clone()) => (Progress::Runs, Vec::new()),
        _ if is_wanted(trial.and_then(|trial| text(trial.get("component")))) => (Progress::OnTrial, Vec::new()),
        Some(refusal) => (Progress::Refused, refusal.problems.clone()),
        None => {
            let troubles = instance.troubles.iter().filter_map(|trouble| text(trouble.get("why")));
            (Progress::Waiting, troubles.collect())
        }
    };
    let share = trial.filter(|_| progress == Progress::OnTrial).and_then(|trial| trial["share"].as_f64());
    Some(Taken { instance: instance.name.clone(), progress, component, share, problems })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(handler: &Value, rest: &Value) -> Instance {
        let mut told = json!({ "instance": "i", "bucket": { "name": "b", "sequence": 5 } });
        for (key, value) in rest.as_object().expect("an object") {
            told[key] = value.clone();
        }
        let mut instance: Instance = serde_json::from_value(told).expect("an instance");
        if let Value::Object(handler) = handler {
            instance.handlers.insert("h".into(), handler.clone());
        }
        instance
    }

    #[track_caller]
    fn check(wanted: &Wanted<'_>, handler: &Value, rest: &Value, expected: Option<Progress>) {
        assert_eq!(look(&instance(handler, rest), wanted).map(|taken| taken.progress), expected);
    }

    #[test]
    fn an_instance_has_taken_it_refused_it_or_not_got_to_it() {
        let wanted =
            Wanted { bucket: "b", handler: "h", digest: "new", sequence: 7, is_drop_in: false, has_new_table: false };
        let table = Wanted { is_drop_in: true, has_new_table: true, ..wanted.clone() };
        let (old, new) = (json!({ "component": "old" }), json!({ "component": "new" }));
        let trial = json!({ "component": "old", "trial": { "component": "new", "share": 0.1 } });
        let refused = |sequence: u64| json!({ "last_reload": { "ok": false, "bucket_sequence": sequence } });
        let nothing = json!({});
        check(&wanted, &new, &nothing, Some(Progress::Runs));
        check(&wanted, &new, &refused(7), Some(Progress::Runs));
        check(&wanted, &trial, &nothing, Some(Progress::OnTrial));
        check(&wanted, &old, &nothing, Some(Progress::Waiting));
        check(&wanted, &old, &refused(7), Some(Progress::Refused));
        check(&wanted, &old, &refused(6), Some(Progress::Waiting));
        check(&wanted, &old, &json!({ "last_reload": { "ok": false } }), Some(Progress::Waiting));
        check(&wanted, &old, &json!({ "bucket": { "name": "c", "sequence": 5 } }), None);
        check(&wanted, &old, &json!({ "bucket": null }), None);
        check(&wanted, &Value::Null, &nothing, None);
        check(&table, &Value::Null, &nothing, Some(Progress::Waiting));
        check(&table, &new, &nothing, Some(Progress::Waiting));
        check(&table, &new, &json!({ "bucket": { "name": "b", "sequence": 7 } }), Some(Progress::Runs));
        let taken = look(&instance(&trial, &nothing), &wanted).expect("it runs it");
        assert_eq!((taken.component.as_deref(), taken.share), (Some("old"), Some(0.1)));
    }
}
