//! `tidemill rewind`: having a handler go on elsewhere in its stream.

use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use tidemill::operate::rewind::{self, Rewound, To};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::queues::{Session, start};
use super::{Done, Failure, Global, find_handler};

const EXAMPLES: &str = "\
Examples:
  tidemill rewind stock --to 1042 --yes
  tidemill rewind stock --to 2026-05-01T08:00:00Z --yes
  tidemill rewind stock --to first --yes";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The handler's name in the manifest
    handler: String,
    /// Where to go on: a sequence of its stream, a time (RFC 3339), or `first`
    #[arg(long, value_name = "SEQ|TIME|first")]
    to: Place,
    /// Confirm that events from there on are handled, also those that were handled before
    #[arg(long)]
    yes: bool,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(To);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if text == "first" {
            return Ok(Place(To::First));
        }
        if let Ok(sequence) = text.parse() {
            return Ok(Place(To::Sequence(sequence)));
        }
        let time = OffsetDateTime::parse(text, &Rfc3339);
        time.map(|time| Place(To::Time(time)))
            .map_err(|_| "write a sequence (1042), a time (2026-05-01T08:00:00Z) or first".to_owned())
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    handler: &'a str,
    #[serde(flatten)]
    rewound: Rewound,
}

/// Does what the user asks for.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    let file = start(global)?;
    let name = &arguments.handler;
    let handler = find_handler(&file, name)?.clone();
    if !arguments.yes {
        return Err(Failure::usage(format!(
            "this has handler {name} handle all events from there on, also those that it has handled before, except what \
             its dedup knows; add --yes to do it"
        )));
    }
    let mut session = Session::open(global, file, "rewind").await?;
    let prefix = session.prefix().to_owned();
    session.nats.look_at_own(&prefix).await?;
    let rewound = rewind::rewind(&session.nats, &session.file.manifest, &handler, arguments.to.0).await?;
    let report = Report { handler: name, rewound };
    global.out().show(&report, || {
        let Rewound { stream, from, was_at, .. } = &report.rewound;
        let before = was_at.map_or_else(String::new, |sequence| format!("; it was at {sequence}"));
        format!("{name} goes on with sequence {from} of stream {stream}{before}")
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_sequences_times_or_the_first() {
        assert_eq!("first".parse(), Ok(Place(To::First)));
        assert_eq!("17".parse(), Ok(Place(To::Sequence(17))));
        assert!(matches!("2026-05-01T08:00:00Z".parse(), Ok(Place(To::Time(_)))));
        for wrong in ["", "last", "-1", "2026-05-01"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
