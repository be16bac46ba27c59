//! Values by key, in the buckets that `allow.keyvalue` of the handler's manifest entry grants.
//!
//! ```no_run
//! # fn handle() -> tidemill_sdk::Result<()> {
//! use tidemill_sdk::keyvalue;
//!
//! let template = keyvalue::open("templates")?.get("mail.welcome")?;
//! let total = keyvalue::open("counters")?.increment("orders.total", 1)?;
//! # Ok(()) }
//! ```
//!
//! What is written stays written, also if the attempt fails afterwards, and is written again by the next one: set values
//! rather than count, or remember which event was counted. Natively buckets are in memory; see
//! [`testing::set_value`](crate::testing::set_value).

use std::fmt;

use crate::Failure;

#[cfg(target_arch = "wasm32")]
use crate::bindings::keyvalue::wasi::keyvalue::{atomics, store};

/// A bucket.
pub struct Bucket {
    name: String,
    #[cfg(target_arch = "wasm32")]
    bucket: store::Bucket,
}

/// Why a bucket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no such bucket.
    NoBucket(String),
    /// The bucket, the key or the way of using it is not granted.
    Denied(String),
    /// Anything else.
    Other(String),
}

/// Opens a bucket.
///
/// # Errors
/// Where there is none, or it is not granted.
pub fn open(name: &str) -> Result<Bucket, Error> {
    let name = name.to_owned();
    #[cfg(target_arch = "wasm32")]
    return match store::open(&name) {
        Ok(bucket) => Ok(Bucket { name, bucket }),
        Err(error) => Err(Error::new(&name, error)),
    };
    #[cfg(not(target_arch = "wasm32"))]
    Ok(Bucket { name })
}

#[cfg(target_arch = "wasm32")]
impl Bucket {
    /// The value of a key; nothing where there is none.
    ///
    /// # Errors
    /// Where the key is not granted, or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.bucket.get(key).map_err(|error| self.error(error))
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// Where the key is not granted, or cannot be written.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.bucket.set(key, value.as_ref()).map_err(|error| self.error(error))
    }

    /// Removes a key.
    ///
    /// # Errors
    /// Where the key is not granted, or cannot be removed.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        self.bucket.delete(key).map_err(|error| self.error(error))
    }

    /// All keys that may be read.
    ///
    /// # Errors
    /// Where the bucket cannot be read.
    pub fn keys(&self) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.bucket.list_keys(cursor.as_deref()).map_err(|error| self.error(error))?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Adds to a whole number, which is 0 where there is no value, and returns the sum. Nobody else's change is lost.
    ///
    /// # Errors
    /// Where the key is not granted, cannot be written, or holds something else.
    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        atomics::increment(&self.bucket, key, delta).map_err(|error| self.error(error))
    }

    fn error(&self, error: store::Error) -> Error {
        Error::new(&self.name, error)
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[allow(missing_docs, clippy::missing_errors_doc, clippy::unnecessary_wraps, reason = "the same as in WebAssembly")]
impl Bucket {
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(crate::testing::with_buckets(|buckets| buckets.get(&self.place(key)).cloned()))
    }

    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        crate::testing::set_value(&self.name, key, value.as_ref());
        Ok(())
    }

    pub fn delete(&self, key: &str) -> Result<(), Error> {
        crate::testing::with_buckets(|buckets| buckets.remove(&self.place(key)));
        Ok(())
    }

    pub fn keys(&self) -> Result<Vec<String>, Error> {
        let is_mine = |(bucket, _): &&(String, String)| *bucket == self.name;
        Ok(crate::testing::with_buckets(|buckets| buckets.keys().filter(is_mine).map(|(_, key)| key.clone()).collect()))
    }

    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        let value = self.get(key)?.unwrap_or_else(|| b"0".to_vec());
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
        let sum = number.and_then(|number| number.checked_add(delta));
        let sum = sum.ok_or_else(|| Error::Other(format!("key {key:?} holds no whole number")))?;
        self.set(key, sum.to_string())?;
        Ok(sum)
    }

    fn place(&self, key: &str) -> (String, String) {
        (self.name.clone(), key.to_owned())
    }
}

#[cfg(target_arch = "wasm32")]
impl Error {
    fn new(bucket: &str, error: store::Error) -> Error {
        match error {
            store::Error::NoSuchStore => Error::NoBucket(format!("there is no bucket {bucket:?}")),
            store::Error::AccessDenied => Error::Denied(format!("bucket {bucket:?}: not granted")),
            store::Error::Other(why) => Error::Other(why),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Error::NoBucket(why) | Error::Denied(why) | Error::Other(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for Error {}

/// What is not granted is rejected, all else attempted again.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Denied(why) => Failure::reject(why),
            Error::NoBucket(why) | Error::Other(why) => Failure::retry(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn buckets_of_tests_are_in_memory() {
        testing::set_value("counters", "a", "41");
        let counters = open("counters").expect("it is there");
        assert_eq!(counters.increment("a", 1), Ok(42));
        assert_eq!(counters.increment("b", -1), Ok(-1));
        assert_eq!(counters.get("a"), Ok(Some(b"42".to_vec())));
        assert_eq!(counters.keys(), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(open("other").expect("it is there").keys(), Ok(Vec::new()));
        counters.delete("a").expect("removed");
        counters.set("b", "x").expect("set");
        assert_eq!(counters.get("a"), Ok(None));
        let failure = counters.increment("b", 1).expect_err("no number");
        assert!(matches!(Failure::from(failure), Failure::Retry { .. }));
        assert_eq!(Failure::from(Error::Denied("no".into())), Failure::reject("no"));
    }
}
