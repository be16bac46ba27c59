//! Grants of `allow.keyvalue`, and which keys they cover.

use std::fmt;

use thiserror::Error;

/// The longest name of a bucket, in bytes: its stream's name has 3 more.
const BUCKET_BYTES_MAX: usize = 252;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// What a read-only grant begins with.
const READ: &str = "read ";

/// An entry of `allow.keyvalue`: a bucket, perhaps only the keys that begin in some way, perhaps only to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// The bucket.
    pub bucket: String,
    /// What keys begin with; nothing for all.
    pub prefix: String,
    /// Whether they may only be read.
    pub read_only: bool,
}

/// Why a text is no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a grant is a bucket of letters, digits, \"-\" and \"_\", perhaps with \"/\" and what keys begin with, perhaps with \"read \" \
     before it, as in \"read templates/mail.\""
)]
pub struct GrantError;

/// What is to be done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written or deleted.
    Write,
}

/// Why a bucket or a key is refused, and what would grant it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nothing of the bucket is granted.
    #[error("bucket {0:?} is not granted; add it to allow.keyvalue of the handler")]
    Bucket(String),
    /// The bucket is granted, but not this key.
    #[error("{access} key {key:?} of bucket {bucket:?} is not granted; allow.keyvalue grants {granted} of that bucket")]
    Key {
        /// What was to be done.
        access: Access,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What of that bucket is granted.
        granted: String,
    },
    /// NATS cannot store such a key.
    #[error(
        "{key:?} cannot be a key: NATS has keys of 1 to {KEY_BYTES_MAX} letters, digits, \"-\", \"_\", \"/\", \"=\" and \".\", without a \".\" \
         at the beginning or the end or two in a row"
    )]
    Unusable {
        /// The key, cut where it is too long.
        key: String,
    },
}

impl KeyGrant {
    /// Reads a grant as the manifest says it.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<KeyGrant, GrantError> {
        let (text, read_only) = match text.strip_prefix(READ) {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        let is_bucket = is_bucket(bucket);
        let is_prefix = prefix.bytes().all(is_key_byte) && !prefix.starts_with('.') && !prefix.contains("..");
        if !is_bucket || !is_prefix || prefix.len() > KEY_BYTES_MAX || (text.contains('/') && prefix.is_empty()) {
            return Err(GrantError);
        }
        Ok(KeyGrant { bucket: bucket.to_owned(), prefix: prefix.to_owned(), read_only })
    }
}

fn is_bucket(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=BUCKET_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b'=' | b'.')
}

/// Whether anything of a bucket is granted.
///
/// # Errors
/// Where nothing is.
pub fn admit_bucket(grants: &[KeyGrant], bucket: &str) -> Result<(), Refusal> {
    if grants.iter().any(|grant| grant.bucket == bucket) {
        return Ok(());
    }
    let end = bucket.floor_char_boundary(BUCKET_BYTES_MAX);
    Err(Refusal::Bucket(bucket[..end].to_owned()))
}

/// Whether a key can be one, and `access` to it is granted.
///
/// # Errors
/// Why not.
pub fn admit(grants: &[KeyGrant], bucket: &str, key: &str, access: Access) -> Result<(), Refusal> {
    admit_bucket(grants, bucket)?;
    let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(is_key_byte);
    if !is_key || key.starts_with('.') || key.ends_with('.') || key.contains("..") {
        let end = key.floor_char_boundary(KEY_BYTES_MAX);
        return Err(Refusal::Unusable { key: key[..end].to_owned() });
    }
    if is_granted(grants, bucket, key, access) {
        return Ok(());
    }
    let granted: Vec<_> =
        grants.iter().filter(|grant| grant.bucket == bucket).map(|grant| format!("\"{grant}\"")).collect();
    let (bucket, key, granted) = (bucket.to_owned(), key.to_owned(), granted.join(", "));
    Err(Refusal::Key { access, bucket, key, granted })
}

/// Whether `access` to a key is granted, whatever else may be wrong with it.
pub fn is_granted(grants: &[KeyGrant], bucket: &str, key: &str, access: Access) -> bool {
    grants.iter().any(|grant| {
        grant.bucket == bucket && key.starts_with(&grant.prefix) && (access == Access::Read || !grant.read_only)
    })
}

/// The buckets of the grants, each once, and whether they may be written to.
pub fn buckets(grants: &[KeyGrant]) -> Vec<(String, bool)> {
    let mut buckets: Vec<(String, bool)> = Vec::new();
    for grant in grants {
        match buckets.iter_mut().find(|(bucket, _)| *bucket == grant.bucket) {
            Some((_, writes)) => *writes |= !grant.read_only,
            None => buckets.push((grant.bucket.clone(), !grant.read_only)),
        }
    }
    buckets
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "reading",
            Access::Write => "writing",
        })
    }
}

impl fmt::Display for KeyGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = if self.read_only { READ } else { "" };
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{read}{}{slash}{}", self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants(texts: &[&str]) -> Vec<KeyGrant> {
        texts.iter().map(|text| KeyGrant::parse(text).expect("a grant")).collect()
    }

    #[test]
    fn a_grant_is_a_bucket_with_or_without_the_beginning_of_keys() {
        for text in ["templates", "read templates", "counters/orders.", "read counters/a/b=c_D-1", "A-1_b/x"] {
            assert_eq!(KeyGrant::parse(text).map(|grant| grant.to_string()).as_deref(), Ok(text));
        }
        for text in
            ["", "read ", "a.b", "a b", "*", "a/", "a/*", "a/>", "a/.b", "a/b..c", "/a", "write a", "a/b c", "\u{e9}"]
        {
            assert_eq!(KeyGrant::parse(text), Err(GrantError), "{text:?}");
        }
    }

    #[test]
    fn keys_are_granted_by_what_they_begin_with() {
        let granted = grants(&["templates", "counters/orders.", "read counters/stock."]);
        let check = |bucket, key, access, expected: &str| {
            let said = admit(&granted, bucket, key, access).err().map(|refusal| refusal.to_string());
            assert_eq!(said.unwrap_or_default(), expected, "{bucket} {key}");
        };
        check("templates", "mail", Access::Write, "");
        check("counters", "orders.total", Access::Write, "");
        check("counters", "stock.a", Access::Read, "");
        let granted = "allow.keyvalue grants \"counters/orders.\", \"read counters/stock.\" of that bucket";
        let refused = |access, key| format!("{access} key \"{key}\" of bucket \"counters\" is not granted; {granted}");
        check("counters", "stock.a", Access::Write, &refused("writing", "stock.a"));
        check("counters", "orders", Access::Read, &refused("reading", "orders"));
        check("counters", "other", Access::Read, &refused("reading", "other"));
        check("other", "a", Access::Read, "bucket \"other\" is not granted; add it to allow.keyvalue of the handler");
        for key in ["", ".a", "a.", "a..b", "a b", "a*", "a.>", "a\r\n", "\u{e9}", &"a".repeat(513)] {
            assert!(matches!(admit(&grants(&["b"]), "b", key, Access::Read), Err(Refusal::Unusable { .. })), "{key:?}");
        }
    }

    #[test]
    fn buckets_are_told_once() {
        let told = buckets(&grants(&["read a", "b", "a/x", "read c"]));
        assert_eq!(told, [("a".to_owned(), true), ("b".to_owned(), true), ("c".to_owned(), false)]);
    }

    proptest! {
        #[test]
        fn nothing_outside_of_the_prefix_is_granted(prefix in "[ab.]{0,3}", key in "[ab.]{0,5}", read_only: bool, write: bool) {
            let access = if write { Access::Write } else { Access::Read };
            let grant = KeyGrant { bucket: "b".into(), prefix: prefix.clone(), read_only };
            if admit(&[grant], "b", &key, access).is_ok() {
                prop_assert!(key.starts_with(&prefix) && !(write && read_only));
            }
        }

        #[test]
        fn nothing_panics(grant in any::<String>(), bucket in any::<String>(), key in any::<String>()) {
            let _ = KeyGrant::parse(&grant);
            let _ = admit(&grants(&["b/x"]), &bucket, &key, Access::Read);
            let _ = admit(&grants(&["b/x"]), "b", &key, Access::Write);
        }
    }
}
