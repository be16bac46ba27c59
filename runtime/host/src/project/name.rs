//! Names of projects. Each is fit for a handler, a file, and a package of whichever language.

use std::fmt;

/// The longest name, in bytes; that of a handler's.
const BYTES_MAX: usize = 64;

/// A name of lower-case letters and digits in words with `-` between them, of which the first begins with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Takes a name as it is.
    ///
    /// # Errors
    ///
    /// If it is none; then a name that is near it, if there is one.
    pub fn new(text: &str) -> Result<Name, Option<Name>> {
        let near = nearest(text);
        if near.as_deref() == Some(text) { Ok(Name(text.to_owned())) } else { Err(near.map(Name)) }
    }

    /// The name, such as `order-total`.
    pub fn kebab(&self) -> &str {
        &self.0
    }

    /// The name as an identifier, such as `order_total`.
    pub fn snake(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that a text comes nearest to; the text itself if it is a name.
fn nearest(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut after_lower = false;
    for c in text.chars() {
        let starts_word = c.is_ascii_uppercase() && after_lower;
        if (starts_word || !c.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if c.is_ascii_alphabetic() || (c.is_ascii_digit() && !name.is_empty()) {
            name.push(c.to_ascii_lowercase());
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    name.truncate(BYTES_MAX);
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn names_are_taken_or_put_right() {
        for (text, expected) in [
            ("order", Ok("order")),
            ("order-total2", Ok("order-total2")),
            ("Order", Err(Some("order"))),
            ("orderTotal", Err(Some("order-total"))),
            ("order_total", Err(Some("order-total"))),
            ("order--total-", Err(Some("order-total"))),
            ("-order", Err(Some("order"))),
            ("2nd order", Err(Some("nd-order"))),
            ("commande-payée", Err(Some("commande-pay-e"))),
            ("", Err(None)),
            ("42", Err(None)),
            ("日本", Err(None)),
        ] {
            let found = Name::new(text);
            let found = found.as_ref().map(Name::kebab).map_err(|near| near.as_ref().map(Name::kebab));
            assert_eq!(found, expected, "{text:?}");
        }
        let long = "a".repeat(65);
        assert_eq!(Name::new(&long).map_err(|near| near.map(|name| name.kebab().len())), Err(Some(64)));
    }

    #[test]
    fn identifiers_have_no_hyphens() {
        assert_eq!(Name::new("order-total-2").map(|name| name.snake()), Ok("order_total_2".to_owned()));
    }
}
