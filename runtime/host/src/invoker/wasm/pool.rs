//! The idle instances of one handler. Nothing here runs a guest or decides whether an instance is fit
//! for another event.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::instance::Instance;

/// Idle instances, the one used last on top: its memory is the most likely to be in the caches. There are never more
/// than the handler runs at once, since each is put back before its place among those that run is free.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Instance>>);

impl Pool {
    /// Takes the instance that was used last.
    pub(super) fn take(&self) -> Option<Instance> {
        self.idle().pop()
    }

    /// Keeps an instance for later.
    pub(super) fn put(&self, instance: Instance) {
        self.idle().push(instance);
    }

    /// Drops the instance that was used longest ago, if there is one.
    pub(super) fn drop_longest_idle(&self) -> bool {
        let mut idle = self.idle();
        let longest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        longest.is_some()
    }

    /// Drops all idle instances, and with them their memory.
    pub(super) fn clear(&self) {
        let instances = std::mem::take(&mut *self.idle());
        drop(instances);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
