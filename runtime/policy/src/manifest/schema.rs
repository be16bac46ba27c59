//! The JSON schema and the reference of the manifest, both made from the key tables.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::keys::{Fallback, Key, Kind, Place, Text};
use super::tables::SECTIONS;
use super::units;

/// Any string that is given by, or made with, a variable is left to the reader to judge.
const VARIABLE_PATTERN: &str = "\\$\\{";
const NAME_PATTERN: &str = "^[a-z][a-z0-9_-]{0,63}$";

/// The JSON schema (draft 2020-12) of `tidemill.toml`. Drop-in files follow its `$defs/handler`.
pub fn json_schema() -> Json {
    let mut properties = Map::new();
    let mut definitions = Map::new();
    for section in SECTIONS {
        let mut table = table(section.keys, section.place);
        let reference = json!({ "$ref": format!("#/$defs/{}", section.name) });
        let mut property = if section.place.is_named() {
            json!({
                "type": "object",
                "propertyNames": { "pattern": NAME_PATTERN },
                "additionalProperties": reference,
            })
        } else {
            reference
        };
        property["description"] = json!(section.help);
        table["description"] = json!(section.help);
        properties.insert(section.name.to_owned(), property);
        definitions.insert(section.name.to_owned(), table);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tidemill manifest",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions,
    })
}

fn table(keys: &[Key], place: Place) -> Json {
    let fitting = || keys.iter().filter(|key| key.fits(place));
    let required: Vec<&str> = fitting().filter(|key| key.required).map(|key| key.name).collect();
    let properties: Map<String, Json> = fitting().map(|key| (key.name.to_owned(), property(key, place))).collect();
    let mut table = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &Key, place: Place) -> Json {
    let mut property = match key.kind {
        Kind::Table(keys) => table(keys, place),
        kind => value(kind),
    };
    let mut description = format!("{} (must be {})", key.help, key.kind.describe());
    match key.default {
        _ if matches!(key.kind, Kind::Table(_)) => key.help.clone_into(&mut description),
        Fallback::None { example } => property["examples"] = json!([json_of(example)]),
        Fallback::Value(default) => property["default"] = json_of(default),
        Fallback::Derived { rule, example } => {
            let _ = write!(description, "; default: {rule}");
            property["examples"] = json!([json_of(example)]);
        }
    }
    property["description"] = json!(description);
    property
}

fn value(kind: Kind) -> Json {
    match kind {
        Kind::Text(form) => text(form),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::List(form) => json!({ "type": "array", "items": text(form) }),
        Kind::OneOrMore(form) => json!({
            "anyOf": [text(form), { "type": "array", "items": text(form), "minItems": 1 }],
        }),
        Kind::Settings => json!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        }),
        Kind::Secrets => json!({ "type": "object", "additionalProperties": text(Text::Secret) }),
        Kind::Files => json!({ "type": "object", "additionalProperties": text(Text::Path) }),
        Kind::Table(_) => json!({ "type": "object" }),
    }
}

fn text(form: Text) -> Json {
    let pattern = match form {
        Text::Any | Text::Path | Text::Plugins => return json!({ "type": "string", "minLength": 1 }),
        Text::Choice(names) => {
            return json!({
                "anyOf": [{ "enum": names }, { "type": "string", "pattern": VARIABLE_PATTERN }],
            });
        }
        Text::Policy => NAME_PATTERN.to_owned(),
        Text::Prefix => "^[A-Za-z0-9_-]{1,32}$".to_owned(),
        Text::JetStream => "^[^\\s.*>/\\\\]{1,255}$".to_owned(),
        Text::Url => "^((nats|tls)://)?[^\\s@/]+/?$".to_owned(),
        Text::Listen => "^(off|.+:[0-9]+)$".to_owned(),
        Text::Secret => "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$".to_owned(),
        Text::Subject => "^[^\\s.*>$_][^\\s.*>]*(\\.[^\\s.*>]+)*$".to_owned(),
        Text::Pattern => "^([^\\s.*>$_][^\\s.*>]*|\\*|>$)(\\.([^\\s.*>]+|\\*|>$))*$".to_owned(),
        Text::DedupKey => "^(none|id|header:[!-9;-~]+|ce:[a-z0-9]+|json:(/.*)?)$".to_owned(),
        Text::SchemaBy => "^(dataschema|header:[!-9;-~]+|ce:[a-z0-9]+)$".to_owned(),
        Text::OrderKey => "^(header:[!-9;-~]+|ce:[a-z0-9]+|json:(/.*)?|subject:[1-9][0-9]{0,2})$".to_owned(),
        Text::OrderTime => "^(event|header:[!-9;-~]+|ce:[a-z0-9]+|json:(/.*)?)$".to_owned(),
        Text::HttpGrant => "^([A-Z-]+(,[A-Z-]+)* )?https?://[^\\s/?#@%*]+(/[^\\s?#%*]*)?$".to_owned(),
        Text::KeyGrant => "^(read )?[A-Za-z0-9_-]{1,252}(/[A-Za-z0-9_/=-][A-Za-z0-9_/=.-]*)?$".to_owned(),
        Text::Rate => "^[0-9]{1,7}/(s|min|h|d)$".to_owned(),
        Text::Duration { .. } => units::duration_pattern(),
        Text::Size { .. } => units::SIZE_PATTERN.to_owned(),
    };
    json!({ "type": "string", "pattern": format!("{pattern}|{VARIABLE_PATTERN}") })
}

/// A value that is written in TOML in a key table.
fn json_of(text: &str) -> Json {
    let table = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = table.ok().and_then(|mut table| table.remove("value"));
    value.and_then(|value| serde_json::to_value(value).ok()).unwrap_or(Json::Null)
}

/// The reference of the manifest in Markdown: for each table its keys with type, default and meaning.
pub fn reference_markdown() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let title = if section.place.is_named() { format!("{}.<name>", section.name) } else { section.name.to_owned() };
        let _ = write!(text, "### `[{title}]`\n\n{}\n\n", section.help);
        if matches!(section.place, Place::Policy | Place::Defaults) {
            text.push_str(&shared_keys(section.keys, section.place));
            continue;
        }
        text.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        rows(section.keys, "", &mut text);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Says which of a handler's keys the table may hold.
fn shared_keys(keys: &[Key], place: Place) -> String {
    let mut excluded = Vec::new();
    paths(keys, "", &mut |path, key| {
        if !key.fits(place) {
            excluded.push(format!("`{path}`"));
        }
    });
    format!("Any key of `[handler.<name>]` except {}.\n\n", excluded.join(", "))
}

fn paths(keys: &[Key], prefix: &str, visit: &mut impl FnMut(&str, &Key)) {
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        visit(&path, key);
        if let Kind::Table(inner) = key.kind {
            paths(inner, &format!("{path}."), visit);
        }
    }
}

fn rows(keys: &[Key], prefix: &str, text: &mut String) {
    paths(keys, prefix, &mut |path, key| {
        if matches!(key.kind, Kind::Table(_)) {
            return;
        }
        let default = match key.default {
            _ if key.required => "required".to_owned(),
            Fallback::None { .. } => "none".to_owned(),
            Fallback::Value(value) => format!("`{}`", value.replace('\'', "\"")),
            Fallback::Derived { rule, .. } => rule.to_owned(),
        };
        let kind = key.kind.describe();
        let _ = writeln!(text, "| `{path}` | {kind} | {default} | {} |", key.help);
    });
}
