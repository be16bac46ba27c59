//! Keeping the values of a handler's secrets out of what is written about it: its log and its errors.
//!
//! This is for accidents, such as a client that shows its headers in an error. A handler that wants to give a secret away
//! can, in another form or in an output.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tidemill_policy::manifest::Handler;

/// The shortest value that is looked for, in bytes: shorter ones are words and numbers that stand everywhere.
const BYTES_MIN: usize = 6;

/// The values of a handler's secrets.
#[derive(Default)]
pub(super) struct Secrets {
    /// What to look for, the longest first, and what to write instead.
    values: Vec<(String, String)>,
}

impl Secrets {
    /// Takes the values of the handler's secrets from its settings.
    pub(super) fn new(handler: &Handler, settings: &BTreeMap<String, String>) -> Secrets {
        let mut values = Vec::new();
        for (key, value) in handler.secrets.keys().filter_map(|key| settings.get_key_value(key)) {
            // What is written is taken apart into lines, and keys in PEM have many.
            let parts = value.lines().map(str::trim).chain([value.as_str()]);
            let long = parts.filter(|part| part.len() >= BYTES_MIN);
            values.extend(long.map(|part| (part.to_owned(), format!("[secret {key}]"))));
        }
        values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        values.dedup();
        Secrets { values }
    }

    /// The text without the values.
    pub(super) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut redacted = Cow::Borrowed(text);
        for (value, instead) in &self.values {
            if redacted.contains(value.as_str()) {
                redacted = Cow::Owned(redacted.replace(value.as_str(), instead));
            }
        }
        redacted
    }

    /// As [`Secrets::redact`], without a copy where there is nothing to redact.
    pub(super) fn redacted(&self, text: String) -> String {
        match self.redact(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(redacted) => redacted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> Secrets {
        let source = tidemill_policy::manifest::Source { path: "", text: "[handler.h]\nsubject = 'a'" };
        let mut handlers = tidemill_policy::manifest::parse(source, &[], &|_| None).expect("valid").manifest.handlers;
        let mut handler = handlers.remove("h").expect("it is there");
        let reference = |key: &str| tidemill_policy::manifest::SecretRef::Env(key.to_uppercase());
        handler.secrets = values.iter().map(|(key, _)| ((*key).to_owned(), reference(key))).collect();
        let mut settings: BTreeMap<_, _> =
            values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        settings.insert("from".into(), "hello@example.org".into());
        Secrets::new(&handler, &settings)
    }

    #[test]
    fn values_are_replaced_by_their_names_and_config_is_not() {
        let secrets = secrets(&[
            ("key", "sk-12345"),
            ("long", "sk-12345-67"),
            ("pin", "1234"),
            ("pem", "BEGIN X\n  abcdefgh\nEND\n"),
        ]);
        for (text, expected) in [
            ("nothing of note", "nothing of note"),
            ("from hello@example.org", "from hello@example.org"),
            ("Bearer sk-12345!", "Bearer [secret key]!"),
            ("sk-12345-67 sk-12345sk-12345", "[secret long] [secret key][secret key]"),
            ("1234 is too short to tell", "1234 is too short to tell"),
            ("line abcdefgh of it", "line [secret pem] of it"),
        ] {
            assert_eq!(secrets.redact(text), expected);
        }
        assert!(matches!(secrets.redact("nothing"), Cow::Borrowed(_)));
    }
}
