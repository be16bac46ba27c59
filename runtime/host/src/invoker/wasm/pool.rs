//! The idle instances of one handler. Nothing here runs a guest or decides whether an instance is fit
//! for another event.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::ReusableBoxFuture;

use super::instance::{Finished, Instance};

/// A call of an instance, in memory that the next call can use again: it is more than allocators are quick with.
pub(super) type Call = ReusableBoxFuture<'static, Finished>;

/// Idle instances, the one used last on top: its memory is the most likely to be in the caches. There are never more
/// than the handler runs at once, since each is put back before its place among those that run is free.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Instance>>,
    /// The memory of calls that have ended, for as many as run at once.
    ended: Mutex<Vec<Call>>,
}

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
        self.ended().clear();
        let instances = std::mem::take(&mut *self.idle());
        drop(instances);
    }

    /// A call that has not begun.
    pub(super) fn call(&self, call: impl Future<Output = Finished> + Send + 'static) -> Call {
        match self.ended().pop() {
            Some(mut ended) => {
                ended.set(call);
                ended
            }
            None => ReusableBoxFuture::new(call),
        }
    }

    /// Keeps the memory of a call that has ended.
    pub(super) fn ended_call(&self, call: Call) {
        self.ended().push(call);
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Call>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
