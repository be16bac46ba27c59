//! `tidemill explain`: what a handler's policy comes to, with every default filled in.

mod contract;
mod gate;
mod in_flight;
mod latest;
mod memory;
mod order;
mod schedule;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use tidemill::broker::nats::partitions;
use tidemill::broker::nats::streams::{dead_letter_stream, retry_consumer, retry_stream};
use tidemill::load::{self, ManifestFile};
use tidemill::logging::{Purpose, counted};
use tidemill_policy::history::{Kind, millis};
use tidemill_policy::in_flight::PAYLOAD_MAX_DEFAULT;
use tidemill_policy::manifest::{AckMode, Backoff, Handler, Isolation, Mode, Outputs, show_duration, show_size};
use tidemill_policy::publication::retries_through_stream;
use tidemill_policy::subject;

use super::{Done, Global, find_handler, output};
use contract::Contract;
use latest::keeps_stale;
use schedule::{Schedule, schedule};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidemill explain welcome-email\n  tidemill explain welcome-email --output json")]
pub(crate) struct Arguments {
    /// The handler's name in the manifest
    handler: String,
}

/// The effective policy.
#[derive(Debug, Serialize)]
struct Explanation {
    handler: String,
    component: String,
    subjects: Vec<String>,
    stream: Option<String>,
    create_stream: bool,
    mode: &'static str,
    format: &'static str,
    isolation: &'static str,
    concurrency: u32,
    consumers: Vec<Consumer>,
    ack: &'static str,
    ack_wait_ms: u64,
    max_age_ms: Option<u64>,
    schema: Option<Contract>,
    dedup: Option<Dedup>,
    order: Option<order::Order>,
    limits: Limits,
    memory: memory::Explanation,
    outputs: &'static str,
    retry: Retry,
    schedule: Schedule,
    gate: gate::Explanation,
    in_flight: in_flight::Explanation,
    dead_letter: DeadLetter,
    config: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    may_publish: Vec<String>,
    may_request: Vec<String>,
    may_keep: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Consumer {
    name: String,
    /// `None` for the one stream that stores the subjects.
    stream: Option<String>,
}

#[derive(Debug, Serialize)]
struct Dedup {
    key: String,
    window_ms: u64,
    claim: bool,
}

#[derive(Debug, Serialize)]
struct Limits {
    timeout_ms: u64,
    fuel: u64,
    memory_bytes: u64,
    payload_bytes: u64,
    outputs: u32,
    output_bytes: u64,
    reuse: u32,
}

#[derive(Debug, Serialize)]
struct Retry {
    max_attempts: u32,
    backoff: &'static str,
    initial_ms: u64,
    max_ms: u64,
    multiplier: f64,
    jitter: f64,
    in_memory_ms: u64,
    on: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct DeadLetter {
    subject: String,
    stream: String,
    max_age_ms: u64,
    on: Vec<&'static str>,
}

/// Explains a handler.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    let file = global.read_manifest()?;
    let handler = find_handler(&file, &arguments.handler)?;
    let explanation = explain(&file, handler);
    global.out().show(&explanation, || text(&explanation, handler, &file.manifest.nats.prefix));
    Ok(())
}

fn explain(file: &ManifestFile, handler: &Handler) -> Explanation {
    let prefix = &file.manifest.nats.prefix;
    let (limits, retry) = (&handler.limits, &handler.retry);
    Explanation {
        handler: handler.name.clone(),
        component: load::component_path(file, handler).display().to_string(),
        subjects: handler.subjects.clone(),
        stream: handler.stream.clone(),
        create_stream: handler.create_stream,
        mode: handler.mode.name(),
        format: handler.format.name(),
        isolation: handler.isolation.name(),
        concurrency: handler.concurrency,
        consumers: consumers(handler, prefix),
        ack: handler.ack.name(),
        ack_wait_ms: millis(handler.ack_wait),
        max_age_ms: handler.max_age.map(millis),
        schema: Contract::of(&handler.schema),
        dedup: handler.dedup.as_ref().map(|dedup| Dedup {
            key: dedup.key.to_string(),
            window_ms: millis(dedup.window),
            claim: dedup.claim,
        }),
        order: order::order(handler),
        limits: Limits {
            timeout_ms: millis(limits.budget.timeout),
            fuel: limits.budget.fuel,
            memory_bytes: limits.budget.memory_bytes,
            payload_bytes: limits.payload_bytes,
            outputs: limits.budget.outputs,
            output_bytes: limits.budget.output_bytes,
            reuse: limits.reuse,
        },
        memory: memory::explain(&file.manifest, handler),
        outputs: handler.outputs.name(),
        retry: Retry {
            max_attempts: retry.max_attempts,
            backoff: retry.backoff.name(),
            initial_ms: millis(retry.initial),
            max_ms: millis(retry.max),
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            in_memory_ms: millis(retry.in_memory),
            on: names(&retry.on),
        },
        schedule: schedule(retry, limits.budget.timeout),
        gate: gate::explain(handler),
        in_flight: in_flight::explain(&file.manifest, handler),
        dead_letter: DeadLetter {
            subject: handler.dead_letter.subject.clone(),
            stream: dead_letter_stream(prefix),
            max_age_ms: millis(handler.dead_letter.max_age),
            on: names(&handler.dead_letter.on),
        },
        config: handler.config.clone(),
        secrets: handler.secrets.iter().map(|(key, secret)| (key.clone(), secret.to_string())).collect(),
        may_publish: handler.allow.publish.clone(),
        may_request: handler.allow.http.iter().map(ToString::to_string).collect(),
        may_keep: handler.allow.keyvalue.iter().map(ToString::to_string).collect(),
        warnings: warnings(handler),
    }
}

fn names(kinds: &[Kind]) -> Vec<&'static str> {
    kinds.iter().map(|kind| kind.name()).collect()
}

fn consumers(handler: &Handler, prefix: &str) -> Vec<Consumer> {
    let name = match handler.mode {
        Mode::Queue => handler.durable.clone(),
        Mode::Broadcast => format!("{}-INSTANCE", handler.durable),
    };
    let mut consumers = match handler.partitions() {
        Some(count) => vec![Consumer {
            name: format!("{name}-p0 to -p{}", count - 1),
            stream: Some(partitions::stream(prefix, &handler.name)),
        }],
        None => vec![Consumer { name, stream: handler.stream.clone() }],
    };
    if retries_through_stream(handler) {
        consumers.push(Consumer { name: retry_consumer(prefix, &handler.name), stream: Some(retry_stream(prefix)) });
    }
    consumers
}

/// What is allowed, and perhaps not wise.
fn warnings(handler: &Handler) -> Vec<String> {
    let mut warnings = Vec::new();
    for granted in &handler.allow.publish {
        if let Some(own) = handler.subjects.iter().find(|own| subject::overlaps(own, granted)) {
            warnings
                .push(format!("it may publish on {granted:?} what it handles itself ({own:?}): events can go round"));
        }
    }
    if handler.allow.publish.is_empty() {
        warnings.push("it may publish nothing: any output sends its event to the dead letters".to_owned());
    }
    if handler.limits.payload_bytes > PAYLOAD_MAX_DEFAULT {
        warnings.push(format!(
            "limits.payload is {}, but a NATS server takes {} unless its max_payload is raised",
            show_size(handler.limits.payload_bytes),
            show_size(PAYLOAD_MAX_DEFAULT)
        ));
    }
    if keeps_stale(handler) && handler.dedup.is_none() {
        warnings.push(
            "without \"dedup\", an event whose acknowledgement was lost is dead-lettered as stale when a newer one was \
             processed meanwhile"
                .to_owned(),
        );
    }
    if handler.mode == Mode::Broadcast {
        warnings.push("mode is \"broadcast\": retries wait in the process, and end with it".to_owned());
    }
    warnings
}

fn text(explanation: &Explanation, handler: &Handler, prefix: &str) -> String {
    let mut rows = vec![
        ("handler", explanation.handler.clone()),
        ("component", explanation.component.clone()),
        ("subject", explanation.subjects.join(", ")),
        ("stream", stream_text(explanation)),
        ("mode", mode_text(handler)),
        ("consumers", lines(explanation.consumers.iter().map(Consumer::text))),
        ("format", explanation.format.to_owned()),
        ("schema", explanation.schema.as_ref().map_or_else(String::new, Contract::text)),
        ("dedup", dedup_text(handler)),
        ("order", order::text(explanation.order.as_ref(), handler, prefix)),
        ("acks", ack_text(handler)),
        ("limits", limits_text(handler)),
        ("memory", memory::text(&explanation.memory)),
        ("retry", retry_text(handler)),
        ("breaker", gate::breaker_text(handler)),
        ("outage brake", gate::brake_text(handler)),
        ("rate limit", gate::rate_text(handler)),
        ("in flight", explanation.in_flight.text()),
        (
            "dead letters",
            format!(
                "{}, kept for {}\nin {}, unless another stream stores the subject{}",
                explanation.dead_letter.subject,
                show_duration(handler.dead_letter.max_age),
                explanation.dead_letter.stream,
                kinds_text("at once", &handler.dead_letter.on)
            ),
        ),
        ("config", lines(explanation.config.iter().map(|(key, value)| format!("{key} = {value:?}")))),
        ("secrets", lines(explanation.secrets.iter().map(|(key, from)| format!("{key} from {from}")))),
        ("may publish", publish_text(handler)),
        ("may request", explanation.may_request.join("\n")),
        ("may use keys", explanation.may_keep.join("\n")),
    ];
    rows.extend(explanation.warnings.iter().map(|warning| ("warning", warning.clone())));
    format!("{}\n{}", output::table(rows), explanation.schedule.text())
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

impl Consumer {
    fn text(&self) -> String {
        format!("{} on {}", self.name, self.stream.as_deref().unwrap_or("the stream above"))
    }
}

fn stream_text(explanation: &Explanation) -> String {
    match (&explanation.stream, explanation.create_stream) {
        (Some(name), true) => format!("{name}, made if it is missing"),
        (Some(name), false) => format!("{name}, which must exist"),
        (None, _) => "the one that stores the subject".to_owned(),
    }
}

fn mode_text(handler: &Handler) -> String {
    let who = match handler.mode {
        Mode::Queue => "queue: each event is handled by one instance",
        Mode::Broadcast => "broadcast: each event is handled by every instance",
    };
    let reuse = match handler.isolation {
        Isolation::Handler => format!("WebAssembly instances are replaced after {} events", handler.limits.reuse),
        Isolation::Event => "each event gets a fresh WebAssembly instance".to_owned(),
    };
    format!("{who}, {} at once in each process\n{reuse}", handler.concurrency)
}

fn dedup_text(handler: &Handler) -> String {
    let Some(dedup) = &handler.dedup else {
        return "by the output streams' windows only".to_owned();
    };
    let how = if dedup.claim { ", claimed before it is run" } else { "" };
    format!("one event for each {}, remembered for {}{how}", dedup.key, show_duration(dedup.window))
}

fn ack_text(handler: &Handler) -> String {
    let how = match handler.ack {
        AckMode::Plain => "sent and not waited for",
        AckMode::Confirmed => "confirmed by the server",
    };
    let wait = show_duration(handler.ack_wait);
    format!("{how}; an event is taken from an instance that is silent for {wait}")
}

/// The kinds of failure that the manifest maps, on a line of their own.
fn kinds_text(what: &str, kinds: &[Kind]) -> String {
    if kinds.is_empty() { String::new() } else { format!("\n{what} for {}", names(kinds).join(", ")) }
}

fn limits_text(handler: &Handler) -> String {
    let limits = &handler.limits;
    format!(
        "{} of time, {} of fuel, {} of memory for each attempt\npayload up to {}; up to {}, {} together",
        show_duration(limits.budget.timeout),
        limits.budget.fuel,
        show_size(limits.budget.memory_bytes),
        show_size(limits.payload_bytes),
        counted(limits.budget.outputs.into(), "output"),
        show_size(limits.budget.output_bytes)
    )
}

fn publish_text(handler: &Handler) -> String {
    let granted = handler.allow.publish.join("\n");
    match handler.outputs {
        Outputs::Each => granted,
        Outputs::Atomic => format!(
            "{granted}\nall outputs of an event at one moment or none, in one stream with allow_atomic (nats-server 2.12.1)"
        ),
    }
}

fn retry_text(handler: &Handler) -> String {
    let retry = &handler.retry;
    let growth = match retry.backoff {
        Backoff::Constant => format!("{} each time", show_duration(retry.initial)),
        Backoff::Linear => {
            format!("{0} more each time, up to {1}", show_duration(retry.initial), show_duration(retry.max))
        }
        Backoff::Exponential => {
            format!("from {} by {} to {}", show_duration(retry.initial), retry.multiplier, show_duration(retry.max))
        }
    };
    let claims = handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
    let is_ordered = handler.key_order().is_some();
    let memory = match (retries_through_stream(handler) && !is_ordered, retry.in_memory.is_zero() || claims) {
        (false, _) => "all wait in the process".to_owned(),
        (true, true) => "all wait in the retry stream".to_owned(),
        (true, false) => {
            format!("the first wait in the process, up to {} in total", show_duration(retry.in_memory))
        }
    };
    let age =
        handler.max_age.map_or_else(String::new, |age| format!("\nnot once it is older than {}", show_duration(age)));
    format!(
        "{} attempts, {}: {growth}, {} % jitter\n{memory}{}{age}",
        retry.max_attempts,
        retry.backoff,
        retry.jitter * 100.0,
        kinds_text("also", &retry.on)
    )
}
