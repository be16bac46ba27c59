//! `tidemill publish`: an event into its stream, with the server's confirmation.

use std::path::PathBuf;

use anyhow::anyhow;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tidemill::broker::PublishError;
use tidemill::broker::nats::connect::Target;
use tidemill::broker::nats::publish;
use tidemill::load;
use tidemill::logging::Purpose;
use tidemill_policy::headers::{self, MSG_ID};
use tidemill_policy::publication::Publication;
use tidemill_policy::subject;

use super::{Done, Failure, Global, connect, parse_header, read_input};

const EXAMPLES: &str = "\
Examples:
  tidemill publish order.placed '{\"id\": 1}'
  tidemill publish order.placed --file order.json --id order-1 --header Content-Type=application/json
  generate | tidemill publish order.placed --file -
  tidemill publish order.placed '{}' --count 1000 --nats-url nats://127.0.0.1:4222";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The subject to publish on
    subject: String,
    /// The payload
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    payload: Option<String>,
    /// The file with the payload; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A header; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// The message's id: the stream drops another one with the same id for a while
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// How often to publish it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

/// Where a message was stored.
#[derive(Debug, Serialize)]
struct Stored {
    stream: String,
    sequence: u64,
    duplicate: bool,
}

/// Publishes the event.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    subject::check_subject(&arguments.subject)
        .map_err(|error| Failure::usage(format!("subject {:?}: {error}", arguments.subject)))?;
    let message = message(arguments)?;
    let target = target(global)?;
    let nats = connect(&target, "tidemill publish").await?;
    let mut stored = Vec::new();
    for _ in 0..arguments.count {
        let (stream, sequence, duplicate) = publish::publish_one(&nats, &message).await.map_err(|fault| {
            let published = stored.len();
            let before = if published == 0 { String::new() } else { format!(" ({published} were stored before)") };
            anyhow!("{}{before}", remedy(&fault))
        })?;
        stored.push(Stored { stream, sequence, duplicate });
    }
    global.out().show(&stored, || stored.iter().map(Stored::text).collect());
    Ok(())
}

impl Stored {
    fn text(&self) -> String {
        let duplicate = if self.duplicate { " (duplicate of a message that was stored before)" } else { "" };
        format!("stored in {} as #{}{duplicate}\n", self.stream, self.sequence)
    }
}

fn message(arguments: &Arguments) -> Result<Publication, Failure> {
    let payload = match (&arguments.payload, &arguments.file) {
        (_, Some(file)) => read_input(file).map_err(Failure::Usage)?,
        (payload, None) => Bytes::from(payload.clone().unwrap_or_default()),
    };
    let mut list = arguments.header.clone();
    if let Some(id) = &arguments.id {
        if id.is_empty() || !headers::is_valid_value(id) {
            return Err(Failure::usage("--id must not be empty or contain line breaks"));
        }
        list.retain(|(name, _)| !name.eq_ignore_ascii_case(MSG_ID));
        list.push((MSG_ID.to_owned(), id.clone()));
    }
    Ok(Publication { subject: arguments.subject.clone(), headers: list, payload })
}

/// Where to publish. With a URL given, no manifest is needed; where there is one, its credentials are used.
fn target(global: &Global) -> Result<Target, Failure> {
    let unnamed = |why: String| {
        Failure::usage(format!(
            "no NATS server is named: {why}; give --nats-url or TIDEMILL_NATS_URL (`tidemill dev` prints the URL of \
             its server)"
        ))
    };
    if global.manifest.exists() {
        let file = load::read(&global.manifest).map_err(|error| match error {
            load::ReadError::Invalid(problems) => Failure::Manifest(problems),
            error => Failure::Usage(error.into()),
        })?;
        let why = format!("{} has no url in [nats]", file.path.display());
        return global.target(Some(&file))?.ok_or_else(|| unnamed(why));
    }
    let why = format!("there is no manifest at {}", global.manifest.display());
    global.target(None)?.ok_or_else(|| unnamed(why))
}

/// What went wrong, and what to do about it.
pub(super) fn remedy(fault: &PublishError) -> String {
    match fault {
        PublishError::NoStream { subject } => {
            let name = subject.split('.').next().unwrap_or_default().to_uppercase();
            format!(
                "no stream stores subject {subject:?}; correct the subject, or create a stream: \
                 nats stream add {name} --subjects {subject:?} (`tidemill dev` makes those that the handlers need)"
            )
        }
        PublishError::TooLarge { .. } => format!("{fault}; send less, or raise max_payload of the server"),
        PublishError::Denied { .. } => format!("{fault}; ask for the permission, or use other credentials in [nats]"),
        PublishError::Apart { .. } => fault.to_string(),
        PublishError::Unavailable { .. } => format!("{fault}; it may be stored all the same"),
    }
}
