//! What must hold, during a run and when it has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_policy::event::Event;
use tidemill_policy::gate::breaker::{Record, State as Breaker};
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tidemill_policy::id::Token;
use tidemill_policy::manifest::{Across, Outputs};
use tidemill_policy::outcome::Outcome;
use tidemill_policy::publication::Publication;

use tokio::time::Instant;

use crate::plan::{Flow, Plan, Script, name_of};
use crate::server::Server;

/// After how long every instance knows that the breaker is open, where nothing goes wrong: it is looked at each
/// second, and between two looks the keeper may wait for the rate limit.
const NEWS_MS: u64 = 2_000;

/// What has happened to the events, as the handler and the server saw it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    runs: Vec<Run>,
    /// How many runs more than allowed an event may have: where a server forgets, where two instances both hold a delivery
    /// because one of them was cut off, and where an instance has cut the attempt off itself.
    forgiven: BTreeMap<String, u32>,
    /// How many outputs were stored when an event's were last asked for and not found.
    missing: BTreeMap<String, usize>,
    /// When a message of an event was first acknowledged because the event had ended.
    ended: BTreeMap<String, Instant>,
    /// The events in the order of their stream.
    published: Vec<String>,
    /// The events whose messages the server may deliver once more although they have ended.
    taken_back: BTreeSet<String>,
    /// Attempts whose beginning is recorded and whose run has not begun, by event and instance. Where a process dies in that
    /// moment, nobody can tell that from a death in the run.
    beginning: BTreeSet<(String, String)>,
    /// The events of which a message was lost by who restored its stream.
    gone: BTreeSet<String>,
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
    pub(crate) fn arrived(&mut self, event: &str) {
        if !self.published.iter().any(|published| published == event) {
            self.published.push(event.to_owned());
        }
    }

    /// With an order: no other event of the key runs, all earlier ones have ended, and no later one has begun.
    fn check_order(&mut self, plan: &Plan, server: &Server, event: &str) {
        let key = &plan.script(event).key;
        let of_key = |id: &&String| plan.script(id).key == *key;
        let mut earlier = self.published.iter().filter(of_key).take_while(|id| *id != event);
        let later: BTreeSet<_> = self.published.iter().filter(of_key).skip_while(|id| *id != event).skip(1).collect();
        let mut active = self.runs.iter().filter(|run| run.is_active && plan.script(&run.event).key == *key);
        if let Some(run) = active.next() {
            self.violations
                .push(format!("{event} is run while {} of the same key runs in {}", run.event, run.instance));
        }
        if let Some(id) = earlier.find(|id| !self.has_ended(plan, server, id)) {
            self.violations.push(format!("{event} is run before {id} of the same key has ended"));
        }
        // Without `dedup`, what has ended runs once more where the server forgets or does not hear of it.
        let is_repeated = self.taken_back.contains(event) || self.has_ended(plan, server, event);
        let may_repeat = plan.handler.dedup.is_none() && is_repeated;
        let run_later = self.runs.iter().find(|run| later.contains(&run.event));
        if let Some(run) = run_later.filter(|_| !may_repeat) {
            self.violations.push(format!("{event} is run after {} of the same key", run.event));
        }
    }

    fn has_ended(&self, plan: &Plan, server: &Server, event: &str) -> bool {
        let is_handled = self.runs.iter().any(|run| run.event == event && run.completed)
            && plan.script(event).payloads().all(|payload| count(server, &payload) == 1);
        is_handled || letters(server, event).next().is_some()
    }

    /// A run ended without an outcome. Where its process lives on, that was its own doing, and does not count.
    pub(crate) fn cut_off(&mut self, run: usize) {
        let run = &mut self.runs[run];
        if std::mem::take(&mut run.is_active) {
            *self.forgiven.entry(run.event.clone()).or_default() += 1;
        }
    }

    /// An instance hands an event back although it has run it: what came of that is lost, and does not count.
    pub(crate) fn handed_back(&mut self, event: &str, instance: &str) {
        if self.runs.iter().any(|run| run.event == event && run.instance == instance) {
            self.forgive(event);
        }
    }

    /// The beginning of an attempt is recorded.
    pub(crate) fn begins(&mut self, event: &str, instance: &str) {
        self.beginning.insert((event.to_owned(), instance.to_owned()));
    }

    /// How many attempts of an event were made, as far as anybody can tell.
    fn made(&self, event: &str) -> usize {
        let runs = self.runs.iter().filter(|run| run.event == event).count();
        runs + self.beginning.iter().filter(|(of, _)| of == event).count()
    }

    /// A message of an event is not there any more.
    pub(crate) fn gone(&mut self, event: &str) {
        self.gone.insert(event.to_owned());
    }

    pub(crate) fn begin_run(
        &mut self,
        plan: &Plan,
        server: &Server,
        instance: &str,
        event: &Event,
        now_ms: u64,
    ) -> usize {
        let name = name_of(&event.headers).to_owned();
        if plan.flow != Flow::Free {
            self.check_order(plan, server, &name);
        }
        let is_tried = self.check_breaker(plan, server, &name, now_ms);
        self.check_attempt(plan, &name, event.attempt.get());
        let here = self.runs.iter().filter(|run| run.is_active && run.instance == instance);
        let mut of_event = here.clone().filter(|run| run.event == name);
        if plan.handler.dedup.is_some() && of_event.next().is_some() {
            self.violations.push(format!("two copies of {name} run at once in {instance}"));
        }
        if here.count() >= plan.handler.concurrency as usize {
            self.violations.push(format!("{instance} runs more than {} events at once", plan.handler.concurrency));
        }
        // Two instances may look at the same moment; the outputs collapse. With `order` the moment is as long as it takes
        // to look at the newest event of the key.
        let is_known_soon = plan.handler.dedup.is_some() && !plan.keeps_latest() && plan.faults.amnesia == 0;
        let ended = self.ended.get(&name).filter(|_| is_known_soon);
        if ended.is_some_and(|when| when.elapsed() > Duration::from_millis(200)) {
            self.violations.push(format!("{name} is run although it has ended"));
        }
        let claims = plan.handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
        if claims && plan.faults.amnesia == 0 && self.runs.iter().any(|run| run.is_active && run.event == name) {
            self.violations.push(format!("{name} is claimed and runs twice at once"));
        }
        let (event, instance) = (name, instance.to_owned());
        self.beginning.remove(&(event.clone(), instance.clone()));
        self.runs.push(Run { event, instance, is_active: true, completed: false, at_ms: now_ms, is_tried });
        self.runs.len() - 1
    }

    /// Every attempt that is counted was made.
    fn check_attempt(&mut self, plan: &Plan, event: &str, attempt: u32) {
        let made = self.made(event);
        if attempt as usize > made + 1 {
            self.violations.push(format!("{event} is run for attempt {attempt}, and was run {made} times before"));
        }
        if attempt > plan.handler.retry.max_attempts {
            self.violations.push(format!("{event} is run for attempt {attempt}"));
        }
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
        self.taken_back.insert(event.to_owned());
    }

    /// Something was published. At no moment is a part of the outputs stored that belong together, and no event is given
    /// up on whose outputs are known to be stored; an instance that was cut off may store them afterwards.
    pub(crate) fn published(&mut self, plan: &Plan, server: &Server, batch: &[Publication]) {
        if plan.handler.outputs == Outputs::Each {
            return;
        }
        for script in &plan.events {
            let stored = script.payloads().filter(|payload| count(server, payload) > 0).count();
            if stored > 0 && stored < script.payloads().count() {
                self.violations.push(format!("a part of the outputs of {} is stored", script.id));
            }
        }
        for letter in batch.iter().filter(|message| message.subject.starts_with("tidemill.deadletter.")) {
            let (event, token) = (name_of(&letter.headers), headers::get(&letter.headers, headers::IDENTITY));
            let first_output = token.and_then(Token::read).map(|token| token.output(0)).unwrap_or_default();
            let looked_at = self.missing.get(&first_output).copied();
            let prefix = format!("{event}/");
            let is_of_event = |output: &Publication| output.payload.starts_with(prefix.as_bytes());
            if looked_at.is_none_or(|count| server.outputs[..count].iter().any(is_of_event)) {
                self.violations.push(format!("{event} is given up although its outputs are stored: {looked_at:?}"));
            }
        }
    }

    /// The server was asked for an output.
    pub(crate) fn asked(&mut self, server: &Server, id: &str, known: bool) {
        if !known {
            self.missing.insert(id.to_owned(), server.outputs.len());
        }
    }

    /// A message is about to be acknowledged: what it demanded must be stored, or another message carry it on.
    pub(crate) fn ended_message(&mut self, plan: &Plan, server: &Server, event: &str, continues: bool) {
        let is_handled = self.runs.iter().any(|run| run.event == event && run.completed)
            && plan.script(event).payloads().all(|payload| count(server, &payload) == 1);
        let is_dead = letters(server, event).next().is_some();
        if !continues && (is_handled || is_dead) {
            self.ended.entry(event.to_owned()).or_insert_with(Instant::now);
        }
        if !continues && !is_handled && !is_dead && !self.is_outdated(plan, server, event) {
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
            if !is_done && letters.is_empty() && !self.gone.contains(id) && !self.is_outdated(plan, server, id) {
                found.push(format!("{id} is lost: outputs {counts:?}, no dead letter"));
            }
            let runs = self.runs.iter().filter(|run| run.event == *id).count();
            let made = self.made(id);
            let told = letters.iter().map(|(errors, dropped)| errors.len() + dropped).max().unwrap_or(0);
            let is_unrun = |error: &AttemptError| matches!(error.kind, Kind::Stale | Kind::Expired);
            let is_of_runs = letters.iter().any(|(errors, _)| !errors.iter().any(is_unrun));
            if is_of_runs && told > made {
                found.push(format!("{id} is given up on after {told} attempts, and was run {made} times"));
            }
            // Without what is remembered, nobody can do better than that.
            if plan.faults.amnesia > 0 {
                continue;
            }
            if !is_handled && counts.iter().any(|count| *count > 0) {
                found.push(format!("{id} has outputs although no attempt succeeded"));
            }
            if letters.len() > 1 {
                found.push(format!("{id} has {} dead letters", letters.len()));
            }
            for (errors, dropped) in &letters {
                found.extend(gaps(errors, *dropped, plan.handler.retry.max_attempts).map(|gap| format!("{id}: {gap}")));
            }
            let allowed = self.allowed(plan, script);
            if runs > allowed {
                found.push(format!("{id} was run {runs} times, {allowed} are allowed"));
            }
        }
        found.extend(Self::goes_back(plan, server));
        self.violations.extend(found);
    }

    /// How often an event may be run at the most. A death in one message is not known to the next, since the first of each
    /// leaves no trace.
    fn allowed(&self, plan: &Plan, script: &Script) -> usize {
        let handler = &plan.handler;
        let claims = handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
        let of_message = handler.retry.max_attempts + u32::from(!claims);
        let forgiven = self.forgiven.get(&script.id).copied().unwrap_or(0);
        of_message as usize * script.at.len() + forgiven as usize
    }

    /// With `order`, whether another event of the key was handled which is no older.
    fn is_outdated(&self, plan: &Plan, server: &Server, event: &str) -> bool {
        let script = plan.script(event);
        let mut others = plan.events.iter().filter(|other| other.key == script.key && other.id != event);
        plan.keeps_latest()
            && others.any(|other| {
                let is_handled = self.runs.iter().any(|run| run.event == other.id && run.completed);
                let is_stored = other.payloads().all(|payload| count(server, &payload) == 1);
                other.time >= script.time && is_handled && is_stored
            })
    }

    /// With `order`, the outputs of an older event that come after those of a newer one, both of which were handled.
    fn goes_back(plan: &Plan, server: &Server) -> Vec<String> {
        let mut last: BTreeMap<&str, &Script> = BTreeMap::new();
        let mut found = Vec::new();
        for output in server.outputs.iter().filter(|_| plan.keeps_latest()) {
            let id = std::str::from_utf8(&output.payload).ok().and_then(|payload| payload.split('/').next());
            let script = plan.script(id.expect("the id of an event"));
            let is_whole = script.payloads().all(|payload| count(server, &payload) == 1);
            // Of an event that was given up, an attempt that died may have stored something, before or after others.
            if !is_whole || letters(server, &script.id).next().is_some() {
                continue;
            }
            if let Some(newer) = last.insert(script.key.as_str(), script).filter(|last| last.time > script.time) {
                found.push(format!("outputs of {} come after those of {}, which is newer", script.id, newer.id));
            }
        }
        found
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
    let of_event = server.dead_letters.iter().filter(move |letter| name_of(&letter.headers) == event);
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
