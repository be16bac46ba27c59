//! What is explored: a policy, how many messages there are, and how much may go wrong.

use tidemill_policy::manifest::{self, Handler, Source};

/// What the handler says of equal ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedup {
    /// Nothing: each message is an event of its own.
    Off,
    /// They are one event.
    On,
    /// They are one event, which is claimed before it is run.
    Claim,
}

/// A rule that is switched off, to see that the checker finds what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Every earlier delivery that left no note counts as an attempt.
    ChargeDeliveries,
    /// Without `dedup`, the ids of retries and dead letters leave the message and its place out.
    ForgetPlace,
    /// Whoever finds that another message has the event, or that it has a dead letter, takes that for granted.
    TrustMarkers,
    /// A claim counts as abandoned at once.
    Impatient,
    /// Nobody ever takes a claim over.
    Patient,
    /// Who is overtaken still takes back that its attempt has begun, and so replaces what somebody else has written.
    TakeBackUnseen,
}

/// One exploration.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What the handler says of equal ids.
    pub dedup: Dedup,
    /// `retry.max_attempts`.
    pub max_attempts: u32,
    /// Whether retries wait in memory, where they may.
    pub in_memory: bool,
    /// Whether the retry stream refuses retries for their size.
    pub retries_too_large: bool,
    /// How many messages there are at first.
    pub messages: u8,
    /// How many faults there may be.
    pub faults: u8,
    /// How often the operator may discard or purge; the producer sends once more after that.
    pub operations: u8,
    /// Whether the operator may discard a dead letter before the event is marked as dead, and while a retry of it is there.
    pub discards_early: bool,
    /// The rule that is switched off.
    pub mutation: Option<Mutation>,
}

impl Setup {
    /// The handler that the rules are asked about.
    pub fn handler(&self) -> Handler {
        let dedup = match self.dedup {
            Dedup::Off => "",
            Dedup::On => "dedup = { key = 'id', window = '48h' }",
            Dedup::Claim => "dedup = { key = 'id', window = '48h', claim = true }",
        };
        let in_memory = if self.in_memory { "10s" } else { "0s" };
        let text = format!(
            "[handler.h]\nsubject = 'in.>'\nallow.publish = ['out.>']\n{dedup}\nack_wait = '5s'\nlimits.timeout = '4s'\n\
             retry = {{ max_attempts = {}, initial = '1s', max = '4s', jitter = 0.0, in_memory = '{in_memory}' }}\n",
            self.max_attempts,
        );
        let parsed = manifest::parse(Source { path: "model.toml", text: &text }, &[], &|_| None);
        let mut manifest = parsed.map_err(|problems| problems.to_string()).expect("a valid manifest").manifest;
        manifest.handlers.remove("h").expect("the handler")
    }

    /// How often the messages that are one event may be run without any fault: see the page of the protocol.
    pub fn runs_of_message(&self) -> u8 {
        let claims = self.dedup == Dedup::Claim;
        u8::try_from(self.max_attempts).unwrap_or(u8::MAX).saturating_add(u8::from(!claims))
    }
}
