//! `tidemill breaker`: the circuit breakers, looked at, opened and closed by hand.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tidemill::gate::keeper::{LOOKS, held_until, is_shared};
use tidemill::operate::breakers;
use tidemill_policy::gate::breaker::{Record, State};
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Handler, parse_duration};

use super::output::{columns, harmless};
use super::queues::{Session, start, timestamp, when};
use super::{Done, Failure, Global, find_handler};

const EXAMPLES: &str = "\
While a breaker is open, no instance takes events of its handler; none fails, and none is lost. What runs is
finished. It can be opened for any handler in mode \"queue\", with circuit_breaker in the manifest or without.

Examples:
  tidemill breaker
  tidemill breaker welcome-email open --for 10m --reason \"the mail relay is being moved\"
  tidemill breaker welcome-email close";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The handler's name in the manifest; all where none is given
    handler: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take no more events of the handler
    Open {
        /// For how long; until it is closed where this is not given
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        span: Option<Duration>,
        /// Why, for those who look at it
        #[arg(long, value_name = "TEXT", default_value = "opened by hand")]
        reason: String,
    },
    /// Take events again, whatever it was opened for
    Close,
}

/// A breaker as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    handler: String,
    state: &'static str,
    since: Option<String>,
    until: Option<String>,
    reason: String,
    #[serde(skip)]
    pub(super) text: [String; 4],
}

/// Shows or sets breakers.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    let mut session = Session::open(global, start(global)?, "breaker").await?;
    let prefix = session.prefix().to_owned();
    session.nats.look_at_own(&prefix).await?;
    let now_ms = session.now_ms;
    let Some(name) = &arguments.handler else {
        let shown = all(&session).await?;
        global.out().show(&shown, || text(&shown));
        return Ok(());
    };
    let handler = find_handler(&session.file, name)?;
    if !is_shared(handler) {
        return Err(Failure::usage(format!(
            "handler {name} has mode = \"broadcast\": every instance handles every event, and there is no breaker"
        )));
    }
    let record = match &arguments.action {
        None => look(&session, handler).await?,
        Some(action) => {
            if !breakers::can_be_kept(&session.nats, &prefix).await? {
                let missing = "there is no bucket for breakers yet; it is made when an instance starts: tidemill run";
                return Err(anyhow::anyhow!(missing).into());
            }
            let (state, reason) = match action {
                Action::Open { span, reason } => {
                    let until_ms = span.map(|span| now_ms.saturating_add(millis(span)));
                    (State::Held { until_ms }, reason.as_str())
                }
                Action::Close => (State::Closed, ""),
            };
            breakers::set(&session.nats, &session.file.manifest, handler, state, reason, now_ms).await?
        }
    };
    let shown = [shown(handler, &record, now_ms)];
    global.out().show(&shown, || {
        let seconds = if handler.circuit_breaker.is_some() { LOOKS.0 } else { LOOKS.1 }.as_secs();
        let note = format!("\ninstances see this within {seconds} s\n");
        format!("{}{}", text(&shown), if arguments.action.is_some() { note.as_str() } else { "" })
    });
    Ok(())
}

/// All breakers of the manifest.
pub(super) async fn all(session: &Session) -> Result<Vec<Shown>, Failure> {
    let mut all = Vec::new();
    for handler in session.file.manifest.handlers.values().filter(|handler| is_shared(handler)) {
        all.push(shown(handler, &look(session, handler).await?, session.now_ms));
    }
    Ok(all)
}

async fn look(session: &Session, handler: &Handler) -> Result<Record, Failure> {
    if !breakers::can_be_kept(&session.nats, session.prefix()).await? {
        return Ok(Record::default());
    }
    Ok(breakers::look(&session.nats, handler, session.now_ms).await?)
}

fn shown(handler: &Handler, record: &Record, now_ms: u64) -> Shown {
    let is_endless = matches!(record.state, State::Held { until_ms: None });
    let until_ms = held_until(record).filter(|_| !is_endless);
    let since_ms = (record.since_ms > 0).then_some(record.since_ms);
    let name = record.state.name();
    let state = match until_ms {
        None if is_endless => format!("{name} until it is closed"),
        None => name.to_owned(),
        Some(until_ms) => format!("{name}, ends {}", when(until_ms, now_ms)),
    };
    Shown {
        handler: handler.name.clone(),
        state: record.state.name(),
        since: timestamp(since_ms),
        until: timestamp(until_ms),
        reason: record.reason.clone(),
        text: [
            handler.name.clone(),
            state,
            since_ms.map_or_else(String::new, |since_ms| when(since_ms, now_ms)),
            harmless(&record.reason, true),
        ],
    }
}

fn text(all: &[Shown]) -> String {
    let cells: Vec<_> = all.iter().map(|shown| shown.text.clone()).collect();
    columns(["HANDLER", "BREAKER", "SINCE", "REASON"], &cells)
}

impl Shown {
    /// Whether events are taken as usual.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed.name()
    }

    pub(super) fn is_of(&self, handler: &str) -> bool {
        self.handler == handler
    }
}
