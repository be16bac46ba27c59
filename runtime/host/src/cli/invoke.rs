//! `tidemill invoke`: one run of a handler without a broker, through the same steps as an event from a stream.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tidemill::clock::Clock;
use tidemill::invoker::{Report, Seed};
use tidemill::load;
use tidemill::logging::{Purpose, show_elapsed};
use tidemill::rehearse::{Rehearsal, Scene, SubjectFault, parse_clock, parse_seed, rehearse, subject_of};
use tidemill_policy::arrival::Message;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::decide::{Decision, Failure as Refusal, Setback, rfc3339};
use tidemill_policy::event::{Event, Headers, Output};
use tidemill_policy::history::{Kind, millis};
use tidemill_policy::manifest::Handler;
use tidemill_policy::outcome::Outcome;

use super::check::approximate;
use super::output::Payload;
use super::{Done, Failure, Global, find_handler, output, parse_header, read_input};

const EXAMPLES: &str = "\
The event is decoded as it would be if it came from the stream: raw, a CloudEvent (say so with --header) or a
queue message. Nothing is published. With --seed and --clock of an earlier run, it is the same run again.

Examples:
  tidemill invoke welcome-email --event event.json
  echo '{\"id\": 1}' | tidemill invoke order-pricing --event - --subject order.placed
  tidemill invoke order-pricing --event event.json --attempt 3 --clock 2026-01-31T12:00:00Z --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The handler's name in the manifest
    handler: String,
    /// The file with the event's payload; - for standard input
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// The subject the event came on; else the handler's first one
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// A header of the event; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Which attempt it is, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
    /// The event's id; else the one in the event
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The seed of the random numbers that the handler draws: 64 hexadecimal digits; else a new one
    #[arg(long, value_name = "HEX", value_parser = parse_seed)]
    seed: Option<Seed>,
    /// The time of day that the handler sees: RFC 3339, or milliseconds since 1970; else now
    #[arg(long, value_name = "TIME", value_parser = parse_clock)]
    clock: Option<u64>,
}

/// Runs the handler once.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Invocation)?;
    let file = global.read_manifest()?;
    let handler = find_handler(&file, &arguments.handler)?;
    let subject = subject_of(handler, arguments.subject.as_deref()).map_err(|fault| match fault {
        SubjectFault::Unknown { .. } => Failure::usage(format!("{fault}; say with --subject where it came from")),
        SubjectFault::Unusable { .. } => Failure::usage(format!("--subject {fault}")),
    })?;
    let payload = read_input(&arguments.event).map_err(Failure::Usage)?;
    let loaded = load::handler(&file, &Global::engine(Some(&file))?, handler).await;
    let part = loaded.into_part().map_err(Failure::Faults)?;
    let message = Message { subject, headers: arguments.header.clone(), payload, damage: None };
    let rehearsal = rehearse(&part.handler, &part.schemas, &part.invoker, scene(message, arguments)).await;
    let run = Run::of(&part.handler, rehearsal);
    global.out().show(&run, || run.text());
    if run.failure.is_none() { Ok(()) } else { Err(Failure::Shown) }
}

fn scene(message: Message, arguments: &Arguments) -> Scene {
    let now_ms = arguments.clock.unwrap_or_else(|| Clock::System.now_ms());
    Scene {
        message,
        id: arguments.id.clone(),
        attempt: Attempt::new(arguments.attempt).unwrap_or(Attempt::FIRST),
        stored_ms: now_ms,
        clock_ms: now_ms,
        seed: arguments.seed.unwrap_or_else(rand::random),
    }
}

/// One run, as it is shown.
#[derive(Debug, Serialize)]
struct Run {
    handler: String,
    event: Option<EventShown>,
    outcome: &'static str,
    decision: &'static str,
    delay_ms: Option<u64>,
    failure: Option<FailureShown>,
    outputs: Vec<OutputShown>,
    usage: Option<UsageShown>,
    seed: Option<String>,
    clock: Option<String>,
    clock_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct EventShown {
    id: String,
    subject: String,
    kind: Option<String>,
    attempt: u32,
    max_attempts: u32,
}

#[derive(Debug, Serialize)]
struct FailureShown {
    kind: Kind,
    status_code: Option<i32>,
    message: String,
    stack_trace: Option<String>,
}

#[derive(Debug, Serialize)]
struct OutputShown {
    subject: String,
    kind: Option<String>,
    content_type: Option<String>,
    headers: Headers,
    #[serde(flatten)]
    payload: Payload,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct UsageShown {
    duration_us: u64,
    fuel: u64,
    memory_peak_bytes: u64,
}

impl Run {
    fn of(handler: &Handler, Rehearsal { event, report, decision }: Rehearsal) -> Run {
        let run = Run::new(handler, event.as_ref());
        let run = match &report {
            Some(report) => run.ran(report),
            None => run,
        };
        run.decided(decision)
    }

    fn new(handler: &Handler, event: Option<&Event>) -> Run {
        Run {
            handler: handler.name.clone(),
            event: event.map(|event| EventShown {
                id: event.id.clone(),
                subject: event.subject.clone(),
                kind: event.kind.clone(),
                attempt: event.attempt.get(),
                max_attempts: event.max_attempts,
            }),
            outcome: "not run",
            decision: "publish",
            delay_ms: None,
            failure: None,
            outputs: Vec::new(),
            usage: None,
            seed: None,
            clock: None,
            clock_ms: None,
        }
    }

    fn ran(mut self, report: &Report) -> Run {
        self.outcome = name_of(&report.outcome);
        if let Outcome::Completed(outputs) = &report.outcome {
            self.outputs = outputs.iter().map(OutputShown::of).collect();
        }
        self.usage = Some(UsageShown {
            duration_us: u64::try_from(report.usage.duration.as_micros()).unwrap_or(u64::MAX),
            fuel: report.usage.fuel,
            memory_peak_bytes: report.usage.memory_peak_bytes,
        });
        self.seed = Some(data_encoding::HEXLOWER.encode(&report.seed));
        self.clock = Some(rfc3339(report.clock_ms));
        self.clock_ms = Some(report.clock_ms);
        self
    }

    fn decided(mut self, decision: Decision) -> Run {
        let failure = match decision {
            Decision::Publish(_) => return self,
            Decision::Fail(Setback::Retry { delay, failure }) => {
                self.decision = "retry";
                self.delay_ms = Some(millis(delay));
                failure
            }
            Decision::Fail(Setback::DeadLetter(failure)) => {
                self.decision = "dead-letter";
                failure
            }
        };
        let Refusal { kind, status_code, message, stack_trace } = failure;
        self.failure = Some(FailureShown { kind, status_code, message, stack_trace });
        self
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        if let Some(event) = &self.event {
            let kind = event.kind.as_ref().map_or_else(String::new, |kind| format!(", {kind}"));
            let attempt = format!("attempt {} of {}", event.attempt, event.max_attempts);
            rows.push(("event", format!("{} on {}{kind}, {attempt}", event.id, event.subject)));
        }
        rows.push(("outcome", self.outcome.to_owned()));
        rows.push(("decision", self.decision_text()));
        if let Some(failure) = &self.failure {
            let code = failure.status_code.map_or_else(String::new, |code| format!(" (code {code})"));
            rows.push(("failure", format!("{}{code}: {}", failure.kind, failure.message)));
            rows.extend(failure.stack_trace.clone().map(|trace| ("trace", trace)));
        }
        rows.extend(self.outputs.iter().map(|output| ("output", output.text())));
        if let Some(usage) = self.usage {
            rows.push(("time", show_elapsed(std::time::Duration::from_micros(usage.duration_us))));
            rows.push(("fuel", usage.fuel.to_string()));
            rows.push(("memory", approximate(usage.memory_peak_bytes)));
        }
        rows.extend(self.seed.clone().map(|seed| ("seed", seed)));
        rows.extend(self.clock.clone().map(|clock| ("clock", clock)));
        output::table(rows)
    }

    fn decision_text(&self) -> String {
        match (self.decision, self.delay_ms) {
            ("retry", Some(ms)) => format!("retry in {}", show_elapsed(std::time::Duration::from_millis(ms))),
            ("publish", _) => format!("publish {}", tidemill::logging::counted(self.outputs.len() as u64, "output")),
            (decision, _) => decision.to_owned(),
        }
    }
}

impl OutputShown {
    fn of(output: &Output) -> OutputShown {
        OutputShown {
            subject: output.subject.clone(),
            kind: output.kind.clone(),
            content_type: output.content_type.clone(),
            headers: output.headers.clone(),
            payload: Payload::of(&output.payload),
        }
    }

    fn text(&self) -> String {
        let mut title = self.subject.clone();
        title.extend(self.kind.iter().map(|kind| format!(", kind {kind}")));
        title.extend(self.content_type.iter().map(|content_type| format!(", content type {content_type}")));
        let mut lines = vec![title];
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push(self.payload.text());
        lines.join("\n")
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed(_) => "completed",
        Outcome::Retry { .. } => "retry",
        Outcome::Rejected(_) => "rejected",
        Outcome::TimedOut(_) => "timed out",
        Outcome::OutOfFuel(_) => "out of fuel",
        Outcome::OutOfMemory(_) => "out of memory",
        Outcome::Trapped(_) => "trapped",
        Outcome::OutputRefused { .. } => "output refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_text_where_they_are() {
        let output = |payload: &'static [u8]| Output {
            subject: "a.b".into(),
            kind: Some("k".into()),
            content_type: None,
            headers: vec![("X".into(), "1".into())],
            payload: bytes::Bytes::from_static(payload),
        };
        assert_eq!(OutputShown::of(&output(b"text")).text(), "a.b, kind k\nX: 1\ntext");
        assert_eq!(OutputShown::of(&output(&[0xff, 0xfe])).text(), "a.b, kind k\nX: 1\n(base64) //4=");
    }
}
