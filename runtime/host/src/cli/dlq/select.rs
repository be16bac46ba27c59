//! Which dead letters the user means.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use clap::Args;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use tidemill::operate::letters::{Entry, Place};
use tidemill_policy::history::Kind;

use super::super::Failure;
use super::super::queues::unanswered;

/// The dead letters to work on.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Sequences of dead letters, or ids of events
    #[arg(value_name = "SEQ|ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) which: Vec<String>,
    /// With --all: the handler's name in the manifest
    #[arg(long, value_name = "HANDLER", requires = "all")]
    pub(crate) handler: Option<String>,
    /// All dead letters of the handler
    #[arg(long, requires = "handler")]
    pub(crate) all: bool,
    /// With --all: only those with this reason, such as timeout
    #[arg(long, value_name = "KIND", requires = "all", value_parser = parse_kind)]
    reason: Option<Kind>,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let parsed = Kind::deserialize(text.into_deserializer());
    parsed.map_err(|error: serde::de::value::Error| error.to_string())
}

/// One word of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted<'a> {
    Sequence { stream: Option<&'a str>, sequence: u64 },
    Id(&'a str),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str, streams: &BTreeSet<&str>) -> Wanted<'a> {
        if let Ok(sequence) = text.parse() {
            return Wanted::Sequence { stream: None, sequence };
        }
        if let Some((stream, number)) = text.rsplit_once('/')
            && streams.contains(stream)
            && let Ok(sequence) = number.parse()
        {
            return Wanted::Sequence { stream: Some(stream), sequence };
        }
        Wanted::Id(text.strip_prefix("id:").unwrap_or(text))
    }
}

/// The dead letters that the user selects, each once. Where one is missing, all is refused.
pub(crate) async fn select(places: &[Place<'_>], selection: &Selection) -> Result<Vec<Entry>, Failure> {
    if selection.all {
        let reason = selection.reason.map(Kind::name);
        let is_wanted = |entry: &Entry| {
            selection.handler.as_ref() == Some(&entry.handler)
                && reason.is_none_or(|reason| entry.letter.reason.as_deref() == Some(reason))
        };
        return read_all(places, is_wanted).await;
    }
    named(places, &selection.which).await
}

/// The dead letters with these sequences or ids.
pub(crate) async fn named(places: &[Place<'_>], words: &[String]) -> Result<Vec<Entry>, Failure> {
    let streams: BTreeSet<_> = places.iter().map(|place| place.shelf.stream.as_str()).collect();
    let mut found = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for word in words {
        match Wanted::parse(word, &streams) {
            Wanted::Sequence { stream, sequence } => {
                let entry = at(places, stream, sequence).await?;
                found.insert((entry.stream.clone(), entry.sequence), entry);
            }
            Wanted::Id(id) => {
                ids.insert(id);
            }
        }
    }
    if !ids.is_empty() {
        let entries = read_all(places, |entry| ids.contains(entry.id.as_str())).await?;
        if let Some(missing) = ids.iter().find(|id| entries.iter().all(|entry| entry.id != **id)) {
            return Err(nothing(&format!("no dead letter is of an event with the id {missing:?}")));
        }
        found.extend(entries.into_iter().map(|entry| ((entry.stream.clone(), entry.sequence), entry)));
    }
    Ok(found.into_values().collect())
}

async fn at(places: &[Place<'_>], stream: Option<&str>, sequence: u64) -> Result<Entry, Failure> {
    let mut found: Vec<Entry> = Vec::new();
    for place in places.iter().filter(|place| stream.is_none_or(|stream| stream == place.shelf.stream)) {
        let entry = place.at(sequence).await.map_err(unanswered)?;
        found.extend(entry.filter(|entry| found.iter().all(|known| known.stream != entry.stream)));
    }
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|entry| format!("{}/{sequence}", entry.stream)).collect();
        return Err(Failure::usage(format!(
            "there are several dead letters {sequence}; say which: {}",
            names.join(", ")
        )));
    }
    let hint = format!("write id:{sequence} for an event with that id");
    found.pop().ok_or_else(|| nothing(&format!("there is no dead letter {sequence} ({hint})")))
}

async fn read_all(places: &[Place<'_>], wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, Failure> {
    let mut all = Vec::new();
    for place in places {
        all.extend(place.select(&wanted).await.map_err(unanswered)?);
    }
    Ok(all)
}

fn nothing(why: &str) -> Failure {
    Failure::Failed(anyhow!("{why}; `tidemill dlq list` shows what there is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_sequence_and_anything_else_an_id() {
        let streams = BTreeSet::from(["DEAD", "A"]);
        let sequence = |stream, sequence| Wanted::Sequence { stream, sequence };
        let rows = [
            ("12", sequence(None, 12)),
            ("DEAD/12", sequence(Some("DEAD"), 12)),
            ("OTHER/12", Wanted::Id("OTHER/12")),
            ("DEAD/x", Wanted::Id("DEAD/x")),
            ("id:12", Wanted::Id("12")),
            ("-1", Wanted::Id("-1")),
            ("order-17", Wanted::Id("order-17")),
        ];
        for (text, expected) in rows {
            assert_eq!(Wanted::parse(text, &streams), expected, "{text}");
        }
    }

    #[test]
    fn reasons_are_kinds() {
        assert_eq!(parse_kind("timeout"), Ok(Kind::Timeout));
        assert!(parse_kind("slow").is_err_and(|why| why.contains("`timeout`")));
    }
}
