//! The `config` and `secrets` of the handler's entry in the manifest.
//!
//! Natively the settings are those that a test made with [`testing::set_config`](crate::testing::set_config).

use crate::Failure;

/// Returns the value of a setting, or nothing where no such setting exists.
///
/// # Errors
///
/// A retry, if the host cannot read its settings at the moment.
pub fn get(key: &str) -> Result<Option<String>, Failure> {
    read(key)
}

/// Returns the value of a setting that the handler cannot do without.
///
/// # Errors
///
/// A retry that names the missing setting: an operator can add it before the attempts are used up.
pub fn require(key: &str) -> Result<String, Failure> {
    get(key)?.ok_or_else(|| {
        Failure::retry(format!("the setting {key:?} is missing; add it to the handler's config or secrets"))
    })
}

#[cfg(target_arch = "wasm32")]
fn read(key: &str) -> Result<Option<String>, Failure> {
    use crate::bindings::wasi::config::store;

    store::get(key).map_err(|error| {
        let (store::Error::Upstream(reason) | store::Error::Io(reason)) = error;
        Failure::retry(format!("the setting {key:?} cannot be read: {reason}"))
    })
}

#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::unnecessary_wraps, reason = "the same signature as in WebAssembly")]
fn read(key: &str) -> Result<Option<String>, Failure> {
    Ok(crate::testing::config_value(key))
}

#[cfg(test)]
mod tests {
    use crate::{Failure, config, testing};

    #[test]
    fn a_missing_setting_can_be_added_later() {
        testing::set_config([("from", "hello@example.org")]);
        assert_eq!(config::get("from"), Ok(Some("hello@example.org".to_owned())));
        assert_eq!(config::get("to"), Ok(None));
        assert!(matches!(config::require("to"), Err(Failure::Retry { .. })));
    }
}
