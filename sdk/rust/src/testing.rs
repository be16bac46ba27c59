//! What native unit tests of a handler need: an event to begin with, and settings.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::Event;

thread_local! {
    static CONFIG: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// A first attempt of five at an event with this payload; change the fields that matter to the test.
pub fn event(subject: &str, payload: impl AsRef<[u8]>) -> Event {
    Event {
        id: "event-1".to_owned(),
        subject: subject.to_owned(),
        kind: None,
        source: None,
        time_ms: None,
        content_type: None,
        correlation_id: "event-1".to_owned(),
        causation_id: None,
        attempt: 1,
        max_attempts: 5,
        headers: Vec::new(),
        payload: payload.as_ref().to_vec(),
    }
}

/// Replaces all settings that [`config::get`](crate::config::get) sees in this thread.
pub fn set_config<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    CONFIG.set(settings.collect());
}

pub(crate) fn config_value(key: &str) -> Option<String> {
    CONFIG.with_borrow(|config| config.get(key).cloned())
}
