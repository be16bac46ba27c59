//! The idle instances of one handler. Nothing here runs a guest or decides whether an instance is fit
//! for another event.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::engine::Engine;
use super::instance::Instance;

/// Idle instances, the one used last on top: its memory is the most likely to be in the caches.
pub(super) struct Pool {
    engine: Engine,
    capacity: usize,
    idle: Mutex<Vec<Box<Instance>>>,
}

impl Pool {
    /// A pool that keeps at most `capacity` instances, and fewer if the engine has no room for more.
    pub(super) fn new(engine: Engine, capacity: usize) -> Pool {
        Pool { engine, capacity, idle: Mutex::new(Vec::new()) }
    }

    /// Takes the instance that was used last.
    pub(super) fn take(&self) -> Option<Box<Instance>> {
        let instance = self.idle().pop();
        if instance.is_some() {
            self.engine.release_idle(1);
        }
        instance
    }

    /// Keeps an instance for later, or drops it if there is no room.
    pub(super) fn put(&self, instance: Box<Instance>) {
        if !self.engine.reserve_idle() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < self.capacity {
            idle.push(instance);
            return;
        }
        drop(idle);
        drop(instance);
        self.engine.release_idle(1);
    }

    /// Drops all idle instances, and with them their memory.
    pub(super) fn clear(&self) {
        let instances = std::mem::take(&mut *self.idle());
        let count = instances.len();
        drop(instances);
        self.engine.release_idle(count);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<Instance>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.clear();
    }
}
