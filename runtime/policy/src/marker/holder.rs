//! The event that holds up a key, see [`crate::manifest::OnFailure::Park`].

use serde::{Deserialize, Serialize};

use super::{Carrier, Stored};
use crate::id::Token;
use crate::publication::Case;

/// An event that was given up on, and what may still bring it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub event: String,
    /// What its ids on the wire are derived from; nothing in markers of the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The message that it was given up on with, see [`crate::arrival::Position::name`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    /// Its dead letter; nothing until that is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    letter: Option<Stored>,
}

impl Holder {
    /// The event of this case, with its dead letter where that is stored.
    pub fn of(case: Case<'_>, letter: Option<Stored>) -> Holder {
        let token = Some(case.token().as_str().to_owned());
        Holder { event: case.id().1, token, message: case.arrival.position.name(), letter }
    }

    /// Whether this is the event of the case.
    pub fn is(&self, case: Case<'_>) -> bool {
        match &self.token {
            Some(token) => token == case.token().as_str(),
            None => self.event == case.id().1,
        }
    }

    /// Whether discarding this dead letter is what the key waits for. An older one that was kept says nothing about it.
    pub fn is_held_by(&self, letter: &Stored) -> bool {
        self.letter.as_ref().is_none_or(|own| own == letter)
    }

    /// The event's token, and what brings it back if it is still there: else nobody can release the key. Nothing where that
    /// cannot be told.
    pub fn carriers(&self) -> Option<(Token, Vec<Carrier>)> {
        let token = Token::read(self.token.as_deref()?)?;
        // Until its dead letter is stored it is delivered again; then its message may stay in the stream for long.
        let carrier = match &self.letter {
            Some(letter) => Carrier::Letter(letter.clone()),
            None => Carrier::Message(self.message.clone()),
        };
        Some((token, vec![carrier, Carrier::Retry]))
    }
}
