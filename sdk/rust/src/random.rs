//! Random numbers. On `wasm32-unknown-unknown` the usual crates have no source of them; this works everywhere.

/// Returns `len` random bytes that are hard to guess.
///
/// The host records their seed with a dead letter, so that a run can be repeated.
#[cfg(target_arch = "wasm32")]
pub fn bytes(len: usize) -> Vec<u8> {
    crate::bindings::wasi::random::random::get_random_bytes(len as u64)
}

/// Returns `len` random bytes that are good enough for tests.
#[cfg(not(target_arch = "wasm32"))]
pub fn bytes(len: usize) -> Vec<u8> {
    use std::hash::{BuildHasher, RandomState};

    let words = std::iter::repeat_with(|| RandomState::new().hash_one(0).to_le_bytes());
    words.flatten().take(len).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_many_bytes_as_asked_for() {
        assert_eq!(super::bytes(0).len(), 0);
        assert_eq!(super::bytes(21).len(), 21);
        assert_ne!(super::bytes(16), super::bytes(16));
    }
}
