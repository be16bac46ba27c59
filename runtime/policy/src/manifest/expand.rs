//! Environment variables in strings: `${VAR}`, `${VAR:-default}`, and `$${` for a literal `${`.
//!
//! Nothing here reads the environment; the caller hands in the look-up.

use super::problem::Complaint;

/// Looks up an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands the variables in `text`. As in a shell, a default also stands in for an empty variable.
pub(super) fn expand(text: &str, env: Env) -> Result<String, Complaint> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((inner, after)) = after.split_once('}') else {
                return Err(Complaint::new("has \"${\" without \"}\"")
                    .hint("write \"$${\" for a \"${\" that is meant literally"));
            };
            expanded.push_str(&variable(inner, env)?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn variable(inner: &str, env: Env) -> Result<String, Complaint> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    if !is_variable_name(name) {
        return Err(Complaint::new("has \"${…}\" around something that is no variable's name")
            .hint("write \"${NAME}\" or \"${NAME:-default}\""));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let message = format!("needs the environment variable \"{name}\", which is not set");
            Err(Complaint::new(message).hint(format!("set it, or give a default: \"${{{name}:-…}}\"")))
        }
    }
}

/// Whether `name` can be an environment variable: letters, digits and `_`, not starting with a digit.
pub(super) fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("nats.example".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        let rows = [
            ("plain", Ok("plain")),
            ("nats://${HOST}:4222", Ok("nats://nats.example:4222")),
            ("${HOST}${HOST}", Ok("nats.examplenats.example")),
            ("${PORT:-4222}", Ok("4222")),
            ("${HOST:-other}", Ok("nats.example")),
            ("${EMPTY}", Ok("")),
            ("${EMPTY:-full}", Ok("full")),
            ("${PORT:-}", Ok("")),
            ("$${HOST}", Ok("${HOST}")),
            ("$5 and $", Ok("$5 and $")),
            ("${PORT}", Err("needs the environment variable \"PORT\", which is not set")),
            ("${HOST", Err("has \"${\" without \"}\"")),
            ("${}", Err("has \"${…}\" around something that is no variable's name")),
            ("${1A}", Err("has \"${…}\" around something that is no variable's name")),
        ];
        for (text, expected) in rows {
            let expanded = expand(text, &env).map_err(|complaint| complaint.message);
            assert_eq!(expanded.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_expands_to_itself(text in any::<String>()) {
            let escaped = text.replace("${", "$${");
            prop_assume!(!text.contains("$${"));
            prop_assert_eq!(expand(&escaped, &env), Ok(text));
        }
    }
}
