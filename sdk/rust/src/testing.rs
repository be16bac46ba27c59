//! What native unit tests of a handler need: an event to begin with, and settings.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::Event;
#[cfg(feature = "http")]
use crate::http;

thread_local! {
    static CONFIG: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

#[cfg(feature = "keyvalue")]
thread_local! {
    /// Values by bucket and key.
    static BUCKETS: RefCell<BTreeMap<(String, String), Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
}

#[cfg(feature = "http")]
type Server = Box<dyn FnMut(&http::Request) -> Result<http::Response, http::Error>>;

#[cfg(feature = "http")]
thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
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

/// Sets the value of a key in a bucket of [`keyvalue`](crate::keyvalue), which in this thread are in memory and all granted.
#[cfg(feature = "keyvalue")]
pub fn set_value(bucket: &str, key: &str, value: impl Into<Vec<u8>>) {
    BUCKETS.with_borrow_mut(|buckets| buckets.insert((bucket.to_owned(), key.to_owned()), value.into()));
}

#[cfg(feature = "keyvalue")]
pub(crate) fn with_buckets<R>(action: impl FnOnce(&mut BTreeMap<(String, String), Vec<u8>>) -> R) -> R {
    BUCKETS.with_borrow_mut(action)
}

pub(crate) fn config_value(key: &str) -> Option<String> {
    CONFIG.with_borrow(|config| config.get(key).cloned())
}

/// Has all requests of [`http`](crate::http) in this thread answered by `server`.
#[cfg(feature = "http")]
pub fn serve(server: impl FnMut(&http::Request) -> Result<http::Response, http::Error> + 'static) {
    SERVER.set(Some(Box::new(server)));
}

#[cfg(feature = "http")]
pub(crate) fn answer(request: &http::Request) -> Result<http::Response, http::Error> {
    SERVER.with_borrow_mut(|server| match server {
        Some(server) => server(request),
        None => Err(http::Error::denied("no server was made with testing::serve")),
    })
}
