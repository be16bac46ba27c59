//! Names and ids of the version before, which knew neither the kind of an id nor the deployment. Markers that it has
//! left are looked up under these names for as long as they live; names that have nothing to do with the identity of an
//! event are still made this way.

use sha2::{Digest, Sha256};

use super::encode;

/// The name of the marker of an event. `place` tells messages of one identity apart, where they are to be; `epoch` is
/// the number of replays.
pub fn marker(source: Option<&str>, id: &str, handler: &str, place: &str, epoch: u32) -> String {
    hash([source.unwrap_or_default(), id, handler, "marker", place], epoch)
}

/// 128 bits of the SHA-256 over all parts, each preceded by its length, and a number.
pub(super) fn hash<const N: usize>(parts: [&str; N], number: u32) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(number.to_le_bytes());
    encode(&hash.finalize()[..16])
}
