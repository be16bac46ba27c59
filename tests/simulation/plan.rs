//! What a seed stands for: a policy, events with what their handler makes of them, and how much goes wrong.

use std::fmt::Write;
use std::time::Duration;

use tidemill_policy::event::{Event, Headers, Output};
use tidemill_policy::headers;
use tidemill_policy::manifest::{self, Handler, Order, Outputs, Source};
use tidemill_policy::outcome::{HandlerError, Interruption, Outcome};
use tidemill_policy::publication::RetryClock;

use crate::rng::Rng;

/// The header that names the script of a message.
pub(crate) const SCRIPT: &str = "Script";

/// The name of the script of the message with these headers.
pub(crate) fn name_of(list: &Headers) -> &str {
    headers::get(list, SCRIPT).unwrap_or_default()
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) handler: Handler,
    pub(crate) retry_clock: RetryClock,
    pub(crate) flow: Flow,
    pub(crate) events: Vec<Script>,
    pub(crate) instances: u64,
    pub(crate) faults: Faults,
    /// Until when every attempt fails, whatever its event.
    pub(crate) outage: Duration,
    /// Whether retries are larger than their stream takes.
    pub(crate) retries_too_large: bool,
}

/// How a consumer of the input is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It delivers whatever there is, to everybody.
    Free,
    /// One for each partition, with one message in flight.
    Partitions(u32),
    /// So many messages in flight, and one active instance.
    Window(u32),
}

/// An event, when it is published, and what its handler makes of it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Its name, which every message of it has in a header.
    pub(crate) id: String,
    /// The id that its messages bring, if they do. Without `dedup`, others may bring the same.
    message_id: Option<String>,
    /// With `order`, which other events it has to do with.
    pub(crate) key: String,
    /// When each copy is published; more than one only with `dedup` and an id.
    pub(crate) at: Vec<Duration>,
    /// What the first attempts end in.
    failures: Vec<Failure>,
    /// What all later ones end in.
    last: Last,
    pub(crate) outputs: u64,
    /// With `order`, when it happened.
    pub(crate) time: u64,
}

#[derive(Debug, Clone, Copy)]
enum Failure {
    Retry,
    Hint,
    Trap,
    Fuel,
    Memory,
    NoStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Success,
    Reject,
    Ungranted,
    TooMany,
    /// Outputs in two streams.
    Apart,
    /// None: each attempt kills its process.
    Kill,
}

/// How often what goes wrong, in one of a thousand cases each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// A request does not arrive.
    pub(crate) request_lost: u64,
    /// A request arrives, and its answer does not.
    pub(crate) answer_lost: u64,
    /// The process dies before or after a request.
    pub(crate) death: u64,
    /// The process dies in the handler.
    pub(crate) death_in_handler: u64,
    /// The handler takes long, perhaps longer than it may.
    pub(crate) slow: u64,
    /// Something happens to a whole instance or to the server, for each look at it.
    pub(crate) event: u64,
    /// What is remembered of events is lost, for each look at the server.
    pub(crate) amnesia: u64,
    /// The stream of outputs is full for a while, for each look at the server.
    pub(crate) full: u64,
    /// The input is restored from a backup of a moment ago, for each look at the server.
    pub(crate) restore: u64,
}

impl Faults {
    /// Whether nothing goes wrong but what handlers do.
    pub(crate) fn are_none(&self) -> bool {
        let Faults { request_lost, answer_lost, death, death_in_handler, slow: _, event, amnesia, full, restore } =
            self;
        request_lost + answer_lost + death + death_in_handler + event + amnesia + full + restore == 0
    }
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed);
        let dedup = *rng.pick(&["none", "id", "id", "claim"]);
        let flow = match rng.below(8) {
            6 => Flow::Partitions(1 + u32::try_from(rng.below(3)).expect("fits")),
            7 => Flow::Window(4 + u32::try_from(rng.below(4)).expect("fits")),
            _ => Flow::Free,
        };
        let dedup = if flow != Flow::Free && dedup == "claim" { "id" } else { dedup };
        let on_stale = *rng.pick(&["", "", "discard", "dead-letter"]);
        let on_stale = if flow == Flow::Free { on_stale } else { "" };
        let handler = handler(rng, dedup, flow, on_stale);
        let count = 1 + rng.below(8);
        let atomic = handler.outputs == Outputs::Atomic;
        // Events of one key matter to each other while they are handled at the same time.
        let spread_ms = if handler.order.is_none() { 15_000 } else { *rng.pick(&[300, 15_000]) };
        let ids = *rng.pick(&[Ids::Own, Ids::Own, Ids::Shared, Ids::None]);
        let kills = rng.chance(200);
        let drawn = (0..count).map(|index| script(rng, index, dedup != "none", atomic, spread_ms, ids)).collect();
        let events = settle_kills(drawn, kills);
        let harsh = rng.below(4);
        let faults = Faults {
            request_lost: rng.below(20 * harsh + 1),
            answer_lost: rng.below(20 * harsh + 1),
            death: rng.below(8 * harsh + 1),
            death_in_handler: rng.below(30 * harsh + 1),
            slow: rng.below(60 * harsh + 1),
            event: rng.below(150 * harsh + 1),
            amnesia: if handler.order.is_none() && rng.chance(100) { rng.below(20 * harsh + 1) } else { 0 },
            full: if rng.chance(200) { rng.below(30 * harsh + 1) } else { 0 },
            restore: if flow == Flow::Free && rng.chance(100) { rng.below(30 * harsh + 1) } else { 0 },
        };
        let retry_clock = if rng.chance(700) { RetryClock::Schedules } else { RetryClock::NotBefore };
        let most = if flow == Flow::Free { 2 } else { 3 };
        let instances = 1 + rng.below(most);
        let retries_too_large = flow == Flow::Free && rng.chance(80);
        Plan { handler, retry_clock, flow, events, instances, faults, outage: Duration::ZERO, retries_too_large }
    }

    /// Whether only the latest event of a key counts.
    pub(crate) fn keeps_latest(&self) -> bool {
        matches!(self.handler.order, Some(Order::Latest(_)))
    }

    /// Events that all arrive at the start of an outage, under the policy of a handler that names none.
    pub(crate) fn outage(count: u64, outage: Duration, brake: bool) -> Plan {
        let events = (0..count).map(|index| Script {
            id: format!("e{index}"),
            message_id: Some(format!("e{index}")),
            key: "x".to_owned(),
            time: 0,
            at: vec![Duration::ZERO],
            failures: Vec::new(),
            last: Last::Success,
            outputs: 1,
        });
        Plan {
            handler: parse(&format!(
                "[handler.h]\nsubject = 'in.>'\nallow.publish = ['out.>']\noutage_brake = {brake}\n"
            )),
            retry_clock: RetryClock::Schedules,
            flow: Flow::Free,
            events: events.collect(),
            instances: 2,
            faults: Faults::default(),
            outage,
            retries_too_large: false,
        }
    }

    pub(crate) fn script(&self, id: &str) -> &Script {
        self.events.iter().find(|script| script.id == id).expect("an event of the plan")
    }
}

fn handler(rng: &mut Rng, dedup: &str, flow: Flow, on_stale: &str) -> Handler {
    let dedup = match dedup {
        "id" => "dedup = { key = 'id', window = '24h' }",
        "claim" => "dedup = { key = 'id', window = '24h', claim = true }",
        _ => "",
    };
    let order = match flow {
        Flow::Free if on_stale.is_empty() => String::new(),
        Flow::Free => {
            format!("order = {{ by = 'latest', key = 'header:Key', time = 'header:Time', on_stale = '{on_stale}' }}")
        }
        Flow::Partitions(count) => format!("order = {{ by = 'key', key = 'subject:2', partitions = {count} }}"),
        Flow::Window(window) => {
            format!("order = {{ by = 'key', key = 'subject:2', form = 'queues', in_flight = {window} }}")
        }
    };
    let gate = gate(rng);
    let text = format!(
        "[handler.h]\nsubject = 'in.>'\nallow.publish = ['out.>', 'in.>', 'nowhere']\n{dedup}\n{order}\n{gate}\noutputs = '{}'\nconcurrency = {}\n\
         ack_wait = '5s'\nack = '{}'\nlimits.timeout = '4s'\n\
         retry = {{ max_attempts = {}, initial = '{}ms', max = '4s', jitter = 0.5, in_memory = '{}ms' }}\n",
        rng.pick(&["each", "atomic"]),
        1 + rng.below(4),
        rng.pick(&["plain", "confirmed"]),
        1 + rng.below(5),
        rng.pick(&[0, 50, 400]),
        rng.pick(&[0, 250, 2000]),
    );
    parse(&text)
}

fn parse(text: &str) -> Handler {
    let parsed = manifest::parse(Source { path: "sim.toml", text }, &[], &|_| None);
    let mut manifest = parsed.map_err(|problems| problems.to_string()).expect("a valid manifest").manifest;
    manifest.handlers.remove("h").expect("the handler")
}

/// What keeps attempts back. The brake needs more failures than most plans have.
fn gate(rng: &mut Rng) -> String {
    let mut text = format!("outage_brake = {}\n", rng.chance(700));
    if rng.chance(400) {
        let trigger =
            *rng.pick(&["failures = 1", "failures = 2", "failures = 4", "ratio = 0.5, min_events = 3, window = '5s'"]);
        let (open_for, successes) = (1 + rng.below(5), 1 + rng.below(3));
        let _ = writeln!(
            text,
            "circuit_breaker = {{ {trigger}, open_for = '{open_for}s', open_max = '20s', successes = {successes} }}"
        );
    }
    if rng.chance(400) {
        let rate = *rng.pick(&["1/s", "5/s", "50/s", "30/min"]);
        let across = *rng.pick(&["instance", "instances"]);
        let burst = 1 + rng.below(4);
        let _ = writeln!(text, "rate_limit = {{ rate = '{rate}', burst = {burst}, across = '{across}' }}");
    }
    text
}

/// Which ids the messages of events bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Own,
    /// Without `dedup`, several have the same.
    Shared,
    None,
}

/// Whether events kill their processes: a part of the plans is enough.
fn settle_kills(events: Vec<Script>, kills: bool) -> Vec<Script> {
    let settle = |script: Script| match script.last {
        Last::Kill if !kills => Script { last: Last::Success, ..script },
        _ => script,
    };
    events.into_iter().map(settle).collect()
}

fn script(rng: &mut Rng, index: u64, dedup: bool, atomic: bool, spread_ms: u64, ids: Ids) -> Script {
    const FAILURES: &[Failure] = &[
        Failure::Retry,
        Failure::Retry,
        Failure::Hint,
        Failure::Trap,
        Failure::Fuel,
        Failure::Memory,
        Failure::NoStream,
    ];
    const LASTS: &[Last] = &[
        Last::Success,
        Last::Success,
        Last::Success,
        Last::Success,
        Last::Reject,
        Last::Ungranted,
        Last::TooMany,
        Last::Kill,
    ];
    let last = if atomic && rng.chance(100) { Last::Apart } else { *rng.pick(LASTS) };
    let failing = if rng.chance(400) { rng.below(6) } else { 0 };
    let copies = if dedup && ids != Ids::None && rng.chance(400) { 1 + rng.below(3) } else { 1 };
    let message_id = match ids {
        Ids::None => None,
        Ids::Shared if !dedup => Some(format!("m{}", index % 2)),
        Ids::Own | Ids::Shared => Some(format!("e{index}")),
    };
    Script {
        id: format!("e{index}"),
        message_id,
        key: format!("k{}", rng.below(2)),
        at: (0..copies).map(|_| rng.millis(spread_ms)).collect(),
        failures: (0..failing).map(|_| *rng.pick(FAILURES)).collect(),
        last,
        outputs: rng.below(4),
        time: rng.below(4),
    }
}

impl Script {
    /// What an attempt ends in.
    pub(crate) fn outcome(&self, event: &Event) -> Outcome {
        let error = || HandlerError { message: format!("{} fails", event.id), ..HandlerError::default() };
        let at = Interruption::default;
        let index = event.attempt.preceding() as usize;
        match self.failures.get(index) {
            Some(Failure::Retry) => Outcome::Retry { error: error(), delay: None },
            Some(Failure::Hint) => Outcome::Retry { error: error(), delay: Some(Duration::from_millis(700)) },
            Some(Failure::Trap) => Outcome::Trapped(at()),
            Some(Failure::Fuel) => Outcome::OutOfFuel(at()),
            Some(Failure::Memory) => Outcome::OutOfMemory(at()),
            Some(Failure::NoStream) => Outcome::Completed(vec![self.output(0), output("nowhere", "")]),
            None => match self.last {
                Last::Success => Outcome::Completed((0..self.outputs).map(|index| self.output(index)).collect()),
                Last::Reject => Outcome::Rejected(error()),
                Last::Ungranted => Outcome::Completed(vec![self.output(0), output("secret", "")]),
                Last::Apart => Outcome::Completed(vec![self.output(0), output("in.other", "")]),
                Last::TooMany => Outcome::OutputRefused { message: "too many".into() },
                Last::Kill => Outcome::Trapped(at()),
            },
        }
    }

    /// Whether this attempt kills its process.
    pub(crate) fn kills(&self, event: &Event) -> bool {
        self.last == Last::Kill && event.attempt.preceding() as usize >= self.failures.len()
    }

    /// The headers of its message.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let own = [(SCRIPT, self.id.clone()), ("Key", self.key.clone()), ("Time", self.time.to_string())];
        let id = self.message_id.iter().map(|id| ("Nats-Msg-Id", id.clone()));
        own.into_iter().chain(id).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The payloads of the outputs that it has if it is handled.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = String> {
        (0..self.outputs).map(|index| format!("{}/{index}", self.id))
    }

    fn output(&self, index: u64) -> Output {
        output("out.x", &format!("{}/{index}", self.id))
    }
}

fn output(subject: &str, payload: &str) -> Output {
    let payload = bytes::Bytes::copy_from_slice(payload.as_bytes());
    Output { subject: subject.into(), kind: None, content_type: None, headers: Vec::new(), payload }
}
