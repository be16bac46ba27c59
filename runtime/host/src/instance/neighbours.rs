//! Whether somebody else is at work under the same names: another deployment, with another stream or other subjects.
//! Its retries would run here, and ours there. Asked before anything is consumed, of what is written beside the
//! consumers and, only where that is another's, of those that run.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::StartError;
use super::start::Consumers;
use crate::broker::nats::consume::Spec;
use crate::broker::nats::durable::{self, ConsumerError};
use crate::broker::nats::owner::Owner;
use crate::broker::nats::{ASKED_AT_ONCE, Nats};
use crate::operate::instances::{self, Instance};
use crate::status::Status;

/// Refuses to start beside another deployment that runs.
///
/// # Errors
/// The first handler whose names another deployment uses.
pub(super) async fn check(nats: &Nats, consumers: &Consumers, prefix: &str, status: &Status) -> Result<(), StartError> {
    let each: Vec<_> = consumers.iter().flat_map(|(_, specs)| specs).map(|spec| trace(nats, spec)).collect();
    let traces: Vec<_> = stream::iter(each).buffered(ASKED_AT_ONCE).filter_map(async |trace| trace).collect().await;
    let leaves_none = |spec: &Spec| spec.broadcast;
    if traces.is_empty() && !consumers.iter().flat_map(|(_, specs)| specs).any(leaves_none) {
        return Ok(());
    }
    // Where we may not ask, there is what the server tells of the consumers.
    let running = instances::find(nats, prefix).await.unwrap_or_default();
    let others: Vec<_> = running.iter().filter(|instance| instance.name != status.name).collect();
    for (handler, specs) in consumers {
        for spec in specs {
            let trace = traces.iter().find(|trace| trace.consumer == spec.name && trace.stream == spec.stream);
            if let Some(why) = conflict(spec, trace, &others) {
                let source =
                    ConsumerError { name: spec.name.clone(), stream: spec.stream.clone(), why, is_unanswered: false };
                return Err(StartError::Consumer { handler: handler.clone(), source });
            }
        }
    }
    Ok(())
}

/// What another deployment has left on a consumer of ours.
struct Trace {
    stream: String,
    consumer: String,
    owner: Owner,
    /// Whether somebody pulls.
    is_pulled: bool,
}

async fn trace(nats: &Nats, spec: &Spec) -> Option<Trace> {
    if spec.broadcast {
        return None;
    }
    // What cannot be told now shows when the consumer is made.
    let info = durable::info(nats, spec).await.ok()??;
    let owner = Owner::read(&info.config.metadata).filter(|owner| !owner.is_same(&spec.owner))?;
    let is_pulled = info.num_waiting > 0;
    Some(Trace { stream: spec.stream.clone(), consumer: spec.name.clone(), owner, is_pulled })
}

/// What stands against a consumer.
fn conflict(spec: &Spec, trace: Option<&Trace>, others: &[&Instance]) -> Option<String> {
    let ours = &spec.owner;
    let remedy = "stop the other one, or give one of them another [nats] prefix or handler name";
    if let Some((instance, other)) = others.iter().find_map(|instance| Some((instance, at_work(ours, instance)?))) {
        return Some(format!(
            "instance {:?} is at work for {}, and this is {}: the retries of one would run in the other; {remedy}",
            instance.name,
            other.describe(),
            ours.describe(),
        ));
    }
    let trace = trace?;
    // One that answers, and does the same as we do, has taken it over in the meantime.
    let is_known = trace.owner.prefix == ours.prefix && others.iter().any(|one| does_same(ours, one));
    if !trace.is_pulled || is_known {
        return None;
    }
    let remedy = if trace.owner.prefix == ours.prefix { remedy } else { "choose another name with durable" };
    Some(format!(
        "somebody pulls from it for {}, and this is {}: each would have events of the other; {remedy}",
        trace.owner.describe(),
        ours.describe(),
    ))
}

/// What an instance does under the name of our handler, where that is something else.
fn at_work(ours: &Arc<Owner>, instance: &Instance) -> Option<Owner> {
    let other = told(ours, instance)?;
    (!other.is_same(ours)).then_some(other)
}

fn does_same(ours: &Arc<Owner>, instance: &Instance) -> bool {
    told(ours, instance).is_some_and(|other| other.is_same(ours))
}

/// What an instance tells of our handler; earlier versions do not.
fn told(ours: &Arc<Owner>, instance: &Instance) -> Option<Owner> {
    let handler = instance.handlers.get(&ours.handler)?;
    let subjects = handler.get("subjects")?.as_array()?.iter();
    let mut subjects: Vec<_> = subjects.filter_map(|subject| subject.as_str().map(str::to_owned)).collect();
    subjects.sort();
    let stream = handler.get("stream")?.as_str()?.to_owned();
    Some(Owner { stream, subjects, ..Owner::clone(ours) })
}
