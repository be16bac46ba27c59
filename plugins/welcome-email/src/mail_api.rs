//! A mail API that is only pretended, so that the example needs no network and fails on demand.
//!
//! It refuses an address of which the part before the @ holds `+quota<N>` for the first N attempts. A
//! real one would be called through `wasi:http`, with the mail's id as idempotency key.

/// A mail to be sent.
pub(crate) struct Mail {
    /// The idempotency key: the API sends one mail of an id, however often it is asked to.
    pub(crate) id: String,
    /// The sender's address.
    pub(crate) from: String,
    /// The receiver's address.
    pub(crate) to: String,
    /// The subject line.
    pub(crate) subject: String,
}

/// What the API answers instead of sending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The HTTP status.
    pub(crate) status: i32,
    /// The API's words.
    pub(crate) message: &'static str,
}

/// Sends a mail, or pretends to.
pub(crate) fn send(mail: &Mail, attempt: u32) -> Result<(), Refused> {
    if attempt <= refusals(&mail.to) {
        return Err(Refused { status: 429, message: "quota exceeded" });
    }
    Ok(())
}

/// How often the API refuses this address before it sends.
fn refusals(address: &str) -> u32 {
    let local = address.split('@').next().unwrap_or_default();
    let Some((_, count)) = local.rsplit_once("+quota") else {
        return 0;
    };
    count.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::refusals;

    #[test]
    fn the_address_says_how_often_it_is_refused() {
        for (address, expected) in [
            ("ann@example.org", 0),
            ("ann+quota3@example.org", 3),
            ("ann+quota@example.org", 0),
            ("ann+quotax@example.org", 0),
            ("ann@a+quota3.example.org", 0),
        ] {
            assert_eq!(refusals(address), expected, "{address}");
        }
    }
}
