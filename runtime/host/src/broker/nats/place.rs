//! Where a delivery stands in its stream, as the subject of its acknowledgement says: the format is that of NATS'
//! ADR-15. The client can read it too, but only of a message that holds a context of its own, which takes a few
//! allocations for each.

use tidemill_policy::arrival::Position;

/// What all such subjects begin with.
const PREFIX: &str = "$JS.ACK.";

/// A delivery's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The stream's name.
    stream: &'a str,
    /// How often the message has been delivered, this time included.
    delivered: u64,
    /// The message's sequence in the stream.
    pub(super) sequence: u64,
    /// The number of the delivery, among all of its consumer.
    pub(super) number: u64,
    /// When the message was stored, in nanoseconds since the Unix epoch.
    pub(super) stored_ns: u64,
    /// How many messages are still to be delivered.
    pub(super) pending: u64,
}

impl<'a> Place<'a> {
    /// Reads the subject of an acknowledgement; nothing where it is none.
    pub(super) fn read(subject: &'a str) -> Option<Place<'a>> {
        let rest = subject.strip_prefix(PREFIX)?;
        // Where the server tells its domain and account too, they come first.
        let skipped = if rest.split('.').count() >= 9 { 2 } else { 0 };
        let mut parts = rest.split('.').skip(skipped);
        let stream = parts.next()?;
        let _consumer = parts.next()?;
        let mut number = || parts.next()?.parse().ok();
        let (delivered, sequence, count, stored_ns) = (number()?, number()?, number()?, number()?);
        Some(Place { stream, delivered, sequence, number: count, stored_ns, pending: number()? })
    }

    /// The same, as policy wants it.
    pub(super) fn position(self, stream_created_unix: i64) -> Position {
        Position {
            stream: self.stream.to_owned(),
            stream_created_unix,
            sequence: self.sequence,
            stored_ms: self.stored_ns / 1_000_000,
            delivered: u32::try_from(self.delivered).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else_is() {
        let stored_ns = 1_700_000_000_123_456_789;
        let place = Place { stream: "IN", delivered: 2, sequence: 7, number: 9, stored_ns, pending: 3 };
        for subject in [
            "$JS.ACK.IN.tidemill-h.2.7.9.1700000000123456789.3",
            "$JS.ACK._.hash.IN.tidemill-h.2.7.9.1700000000123456789.3",
            "$JS.ACK.hub.hash.IN.tidemill-h.2.7.9.1700000000123456789.3.token.more",
        ] {
            assert_eq!(Place::read(subject), Some(place), "{subject}");
        }
        let position = place.position(5);
        assert_eq!((position.stored_ms, position.delivered), (1_700_000_000_123, 2));
        for odd in
            ["", "$JS.ACK.", "$JS.ACK.IN.h.2.7.9", "$JS.ACK.IN.h.2.x.9.1.3", "$JS.ACK.IN.h.-1.7.9.1.3", "_INBOX.a"]
        {
            assert_eq!(Place::read(odd), None, "{odd}");
        }
    }
}
