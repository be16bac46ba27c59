//! What passes for a mail address: enough to catch mistakes, not the whole of the standard.

/// The longest address that mail servers take, in bytes.
const BYTES_MAX: usize = 254;

/// Says what is wrong with an address.
pub(crate) fn check(address: &str) -> Result<(), &'static str> {
    let Some((local, domain)) = address.split_once('@') else {
        return Err("it has no @");
    };
    if address.len() > BYTES_MAX {
        return Err("it is too long");
    }
    if local.is_empty() {
        return Err("nothing is before the @");
    }
    if address.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has white space in it");
    }
    if domain.contains('@') {
        return Err("it has more than one @");
    }
    if !domain.contains('.') || domain.split('.').any(str::is_empty) {
        return Err("what is after the @ is no domain");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn addresses() {
        let long = format!("{}@example.org", "a".repeat(250));
        for (address, good) in [
            ("ann@example.org", true),
            ("ann+tag@mail.example.org", true),
            ("jürgen@exämple.org", true),
            ("", false),
            ("ann", false),
            ("@example.org", false),
            ("ann@", false),
            ("ann@localhost", false),
            ("ann@example..org", false),
            ("ann@b@example.org", false),
            ("ann lee@example.org", false),
            ("ann\n@example.org", false),
            (&long, false),
        ] {
            assert_eq!(check(address).is_ok(), good, "{address:?}");
        }
    }
}
