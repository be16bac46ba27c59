//! What must hold, during a run and when it has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_policy::event::Event;
use tidemill_policy::gate::breaker::{Record, State as Breaker};
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tidemill_policy::manifest::Across;
use tidemill_policy::outcome::Outcome;

use tokio::time::Instant;

use crate::plan::Plan;
use crate::server::Server;

/// After how long every instance knows that the breaker is open, where nothing goes wrong: it is looked at each
/// second, and between two looks the keeper may wait for the rate limit.
const NEWS_MS: u64 = 2_000;

/// What has happened to the events, as the handler and the server saw it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    runs: Vec<Run>,
    /// How many runs more than allowed an event may have: a server that forgets, and two instances that both hold
    /// a delivery because one of them was cut off, cannot be told from a first attempt.
    forgiven: BTreeMap<String, u32>,
    /// When a message of an event was first acknowledged because the event had ended.
    ended: BTreeMap<String, Instant>,
    pub(crate) violations: Vec<String>,
}

#[derive(Debug)]
struct Run {
    event: String,
    instance: String,
    is_active: bool,
    completed: bool,
    at_ms: u64,
    /// Whether the breaker was half-open when it began.
    is_tried: bool,
}

impl Ledger {
    pub(crate) fn begin_run(
        &mut self,
        plan: &Plan,
        server: &Server,
        instance: &str,
        event: &Event,
        now_ms: u64,
    ) -> usize {
        let is_tried = self.check_breaker(plan, server, &event.id, now_ms);
        let here = self.runs.iter().filter(|run| run.is_active && run.instance == instance);
        let mut of_event = here.clone().filter(|run| run.event == event.id);
        if plan.handler.dedup.is_some() && of_event.next().is_some() {
            self.violations.push(format!("two copies of {} run at once in {instance}", event.id));
        }
        if here.count() >= plan.handler.concurrency as usize {
            self.violations.push(format!("{instance} runs more than {} events at once", plan.handler.concurrency));
        }
        let ended = self.ended.get(&event.id).filter(|_| plan.handler.dedup.is_some());
        // Two instances may look at the same moment; the outputs collapse.
        if ended.is_some_and(|when| when.elapsed() > Duration::from_millis(200)) {
            self.violations.push(format!("{} is run although it has ended", event.id));
        }
        let claims = plan.handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
        if claims && self.runs.iter().any(|run| run.is_active && run.event == event.id) {
            self.violations.push(format!("{} is claimed and runs twice at once", event.id));
        }
        if event.attempt.get() > plan.handler.retry.max_attempts {
            self.violations.push(format!("{} is run for attempt {}", event.id, event.attempt));
        }
        let (event, instance) = (event.id.clone(), instance.to_owned());
        self.runs.push(Run { event, instance, is_active: true, completed: false, at_ms: now_ms, is_tried });
        self.runs.len() - 1
    }

    /// Whether the breaker tries events; none begins while it is open, and no two are tried at once. Who cannot reach
    /// the server does not know.
    fn check_breaker(&mut self, plan: &Plan, server: &Server, event: &str, now_ms: u64) -> bool {
        let stored = server.read_record("breaker.h").value;
        let record: Record = stored.map(|value| serde_json::from_slice(&value).expect("a record")).unwrap_or_default();
        let is_tried = matches!(record.state, Breaker::HalfOpen { .. });
        if !plan.faults.are_none() {
            return is_tried;
        }
        let is_known = now_ms >= record.since_ms + NEWS_MS;
        // Also when its time is over: then the right to try an event is to be claimed first.
        if matches!(record.state, Breaker::Open { .. }) && is_known {
            self.violations.push(format!("{event} is run while the breaker is open"));
        }
        if is_tried && self.runs.iter().any(|run| run.is_active && run.is_tried && run.at_ms >= record.since_ms) {
            self.violations.push(format!("{event} is tried beside another"));
        }
        is_tried
    }

    /// Checks that no span of time has more beginnings than the rate limit allows.
    fn check_rate(&self, plan: &Plan) -> Option<String> {
        let limit = plan.handler.rate_limit?;
        // From being let through to the beginning, there may be a claim to be confirmed; a shared limit has to be
        // asked for as well.
        let slack_ms = match (limit.across, plan.faults.are_none()) {
            (Across::Instance, true) => 60,
            (Across::Instance, false) => 1_000,
            (Across::Instances, true) => 250,
            (Across::Instances, false) => 2_200,
        };
        let interval_ns = u64::try_from(limit.per.as_nanos()).expect("fits") / u64::from(limit.count);
        let mut starts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for run in &self.runs {
            let of = if limit.across == Across::Instance { run.instance.as_str() } else { "all" };
            starts.entry(of).or_default().push(run.at_ms);
        }
        for (of, starts) in starts {
            for (first, from) in starts.iter().enumerate() {
                for (last, to) in starts.iter().enumerate().skip(first) {
                    let allowed = u64::from(limit.burst) + (to - from + slack_ms) * 1_000_000 / interval_ns;
                    if (last - first) as u64 > allowed {
                        let count = last - first + 1;
                        return Some(format!(
                            "{count} attempts begin in {} ms, {limit} and {allowed} are allowed ({of})",
                            to - from
                        ));
                    }
                }
            }
        }
        None
    }

    pub(crate) fn end_run(&mut self, run: usize, outcome: &Outcome) {
        let run = &mut self.runs[run];
        run.is_active = false;
        run.completed = matches!(outcome, Outcome::Completed(outputs)
            if outputs.iter().all(|output| output.subject.starts_with("out.")));
    }

    pub(crate) fn died(&mut self, instance: &str) {
        for run in self.runs.iter_mut().filter(|run| run.instance == instance) {
            run.is_active = false;
        }
    }

    /// Two instances hold a delivery at once.
    pub(crate) fn forgive(&mut self, event: &str) {
        *self.forgiven.entry(event.to_owned()).or_default() += 1;
    }

    /// The server has forgotten that it delivered the event's message: deaths that were not recorded are forgotten
    /// with it, and without `dedup` also that the event has ended.
    pub(crate) fn forgive_anew(&mut self, plan: &Plan, event: &str) {
        let runs = plan.handler.retry.max_attempts;
        *self.forgiven.entry(event.to_owned()).or_default() += runs;
    }

    /// A message is about to be acknowledged: what it demanded must be stored, or another message carry it on.
    pub(crate) fn ended_message(&mut self, plan: &Plan, server: &Server, event: &str, continues: bool) {
        let is_handled = self.runs.iter().any(|run| run.event == event && run.completed)
            && plan.script(event).payloads().all(|payload| count(server, &payload) == 1);
        let is_dead = letters(server, event).next().is_some();
        if !continues && (is_handled || is_dead) {
            self.ended.entry(event.to_owned()).or_insert_with(Instant::now);
        }
        if !continues && !is_handled && !is_dead {
            self.violations.push(format!("the last message of {event} is acknowledged before anything is stored"));
        }
    }

    /// Checks what is stored at the end.
    pub(crate) fn at_rest(&mut self, plan: &Plan, server: &Server) {
        let mut found: Vec<_> = self.check_rate(plan).into_iter().collect();
        for script in &plan.events {
            let id = &script.id;
            let is_handled = self.runs.iter().any(|run| run.event == *id && run.completed);
            let counts: Vec<_> = script.payloads().map(|payload| count(server, &payload)).collect();
            let letters: Vec<_> = letters(server, id).collect();
            let prefix = format!("{id}/");
            let stored = server.outputs.iter().filter(|output| output.payload.starts_with(prefix.as_bytes())).count();
            if stored > counts.iter().sum() {
                found.push(format!("{id} has {stored} outputs, of which it should not have all"));
            }
            if counts.iter().any(|count| *count > 1) {
                found.push(format!("outputs of {id} are stored more than once: {counts:?}"));
            }
            let is_done = is_handled && counts.iter().all(|count| *count == 1);
            if !is_done && letters.is_empty() {
                found.push(format!("{id} is lost: outputs {counts:?}, no dead letter"));
            }
            if !is_handled && counts.iter().any(|count| *count > 0) {
                found.push(format!("{id} has outputs although no attempt succeeded"));
            }
            if letters.len() > 1 {
                found.push(format!("{id} has {} dead letters", letters.len()));
            }
            let is_lost = |error: &AttemptError| error.kind == Kind::Lost || error.kind == Kind::Attempts;
            if plan.faults.are_none() && letters.iter().any(|(errors, _)| errors.iter().any(is_lost)) {
                found.push(format!("{id} is charged an attempt that was not made"));
            }
            for (errors, dropped) in &letters {
                found.extend(gaps(errors, *dropped, plan.handler.retry.max_attempts).map(|gap| format!("{id}: {gap}")));
            }
            let runs = self.runs.iter().filter(|run| run.event == *id).count();
            let allowed = plan.handler.retry.max_attempts + self.forgiven.get(id).copied().unwrap_or(0);
            // A death in one copy is not known to the next: nothing was recorded.
            if runs > allowed as usize * script.at.len() {
                found.push(format!("{id} was run {runs} times, {allowed} are allowed"));
            }
        }
        self.violations.extend(found);
    }

    /// What became of the events, for the summary of many runs.
    pub(crate) fn summary(&self, plan: &Plan, server: &Server) -> Summary {
        let dead = plan.events.iter().filter(|script| letters(server, &script.id).next().is_some()).count();
        Summary {
            events: plan.events.len(),
            dead,
            runs: self.runs.len(),
            outputs: server.outputs.len(),
            forgiven: self.forgiven.values().sum(),
            instances: self.runs.iter().map(|run| &run.instance).collect::<BTreeSet<_>>().len(),
        }
    }
}

/// What happened in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) events: usize,
    pub(crate) dead: usize,
    pub(crate) runs: usize,
    pub(crate) outputs: usize,
    pub(crate) forgiven: u32,
    pub(crate) instances: usize,
}

impl Summary {
    pub(crate) fn add(&mut self, other: Summary) {
        self.events += other.events;
        self.dead += other.dead;
        self.runs += other.runs;
        self.outputs += other.outputs;
        self.forgiven += other.forgiven;
        self.instances += other.instances;
    }

    /// Whether the runs were hard enough to show something: processes died, servers forgot, events were given up.
    pub(crate) fn has_seen_everything(&self) -> bool {
        self.dead > 0 && self.outputs > 0 && self.forgiven > 0 && self.runs > self.events
    }
}

fn count(server: &Server, payload: &str) -> usize {
    server.outputs.iter().filter(|output| output.payload == payload.as_bytes()).count()
}

/// The histories of an event's dead letters, each with the number of errors that were dropped.
fn letters<'a>(server: &'a Server, event: &'a str) -> impl Iterator<Item = (Vec<AttemptError>, usize)> + 'a {
    let of_event = server
        .dead_letters
        .iter()
        .filter(move |letter| headers::get(&letter.headers, headers::EVENT_ID) == Some(event));
    of_event.map(|letter| {
        let json = headers::get(&letter.headers, headers::ERRORS).unwrap_or_default();
        let dropped = headers::get(&letter.headers, headers::ERRORS_DROPPED).and_then(|text| text.parse().ok());
        (serde_json::from_str(json).unwrap_or_default(), dropped.unwrap_or(0))
    })
}

/// What is missing in a history: it tells of every attempt once, in order, and of no more than there may be.
fn gaps(errors: &[AttemptError], dropped: usize, max_attempts: u32) -> impl Iterator<Item = String> {
    let told: Vec<_> = errors.iter().map(|error| error.attempt).collect();
    let expected: Vec<_> = (1..).take(errors.len()).collect();
    let is_complete = !told.is_empty() && dropped == 0 && told == expected && told.len() <= max_attempts as usize;
    let message = format!("its history tells of attempts {told:?} of {max_attempts}, {dropped} dropped");
    (!is_complete).then_some(message).into_iter()
}
