//! How much memory an instance may take: all of its memories together, exactly, and within what the process has.
//!
//! A request beyond the limit does not fail in the guest, where it would look like any other abort: it
//! ends the invocation with [`MemoryExhausted`], whatever the guest would have made of it.

use std::sync::Arc;

use tidemill_policy::share::memory::Shortage;
use wasmtime::ResourceLimiter;

use super::memory::Lease;

/// The most memories that one instance may have; the pool has room for as many in every instance.
pub(super) const MEMORIES_MAX: u32 = 4;

/// The most tables that one instance may have; the pool has room for as many in every instance.
pub(super) const TABLES_MAX: u32 = 4;

/// The most elements that one table may have.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The most core instances that one component may consist of.
pub(super) const CORE_INSTANCES_MAX: u32 = 100;

/// The instance asked for more memory than it may have.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryExhausted {
    #[error("asked for {requested} bytes of memory in all; {allowed} are allowed (`limits.memory`)")]
    Limit { requested: usize, allowed: usize },
    #[error(
        "asked for {requested} bytes of memory in all, and all handlers together may have {} (`runtime.memory`): this one has {} \
         and is sure of {}, and `{}` has most, {}",
        shortage.capacity,
        shortage.used,
        shortage.sure,
        shortage.most.0,
        shortage.most.1
    )]
    Shared { requested: usize, shortage: Shortage },
    #[error("asked for memory that does not exist: {0}")]
    Unavailable(String),
}

/// A table asked for more elements than it may have.
#[derive(Debug, thiserror::Error)]
#[error("asked for a table of {0} elements; {TABLE_ELEMENTS_MAX} are allowed")]
struct TableTooLarge(usize);

/// Counts and limits the memory of one store.
pub(super) struct Limiter {
    allowed: usize,
    used: usize,
    lease: Arc<Lease>,
}

impl Limiter {
    pub(super) fn new(allowed: usize, lease: Arc<Lease>) -> Limiter {
        Limiter { allowed, used: 0, lease }
    }

    /// The size of all memories together, in bytes; since memories never shrink, also the largest so far.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Whether so much is in use that the next event is better served by a new instance.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.used > self.allowed / 4 * 3
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let requested = self.used.saturating_add(desired.saturating_sub(current));
        if requested > self.allowed {
            let allowed = self.allowed;
            return Err(MemoryExhausted::Limit { requested, allowed }.into());
        }
        let taken = self.lease.take((requested - self.used) as u64);
        taken.map_err(|shortage| MemoryExhausted::Shared { requested, shortage })?;
        self.used = requested;
        Ok(true)
    }

    /// Called if the limit would allow it, but the system or 32 bits of address do not.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(MemoryExhausted::Unavailable(error.to_string()).into())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(TableTooLarge(desired).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime::ResourceLimiter;

    use super::super::memory::Memory;
    use super::super::pool::Pool;
    use super::{Limiter, MemoryExhausted};

    const PAGE: usize = 65_536;

    /// Limits to four pages each, of a process that has so many for a handler.
    fn limiters(pages: usize) -> [Limiter; 2] {
        let memory = Memory::new((pages * PAGE) as u64);
        let account = memory.open("handler", u64::MAX, &Arc::<Pool>::default());
        [(); 2].map(|()| Limiter::new(4 * PAGE, account.lease()))
    }

    fn limiter() -> Limiter {
        let [limiter, _] = limiters(100);
        limiter
    }

    #[test]
    fn all_memories_count_together() {
        let mut limiter = limiter();
        assert!(limiter.memory_growing(0, 2 * PAGE, None).expect("it fits"));
        assert!(limiter.memory_growing(0, PAGE, None).expect("it fits"));
        assert!(!limiter.is_nearly_full());
        assert!(limiter.memory_growing(PAGE, 2 * PAGE, None).expect("it fits"));
        assert!(limiter.is_nearly_full());
        let error = limiter.memory_growing(2 * PAGE, 3 * PAGE, None).expect_err("one page too many");
        assert!(error.is::<MemoryExhausted>());
        assert_eq!(limiter.used(), 4 * PAGE);
    }

    #[test]
    fn what_the_memory_itself_forbids_is_the_guests_to_handle() {
        let mut limiter = limiter();
        assert!(!limiter.memory_growing(PAGE, 9 * PAGE, Some(2 * PAGE)).expect("the guest is told that it failed"));
        assert_eq!(limiter.used(), 0);
    }

    #[test]
    fn memory_that_the_system_does_not_have_is_exhausted_too() {
        let error = limiter()
            .memory_grow_failed(wasmtime::Error::msg("the system has none"))
            .expect_err("it ends the invocation");
        assert!(error.is::<MemoryExhausted>());
    }
    #[test]
    fn what_the_process_has_is_shared() {
        let [mut one, mut other] = limiters(5);
        assert!(one.memory_growing(0, 3 * PAGE, None).expect("it fits"));
        let error = other.memory_growing(0, 3 * PAGE, None).expect_err("the process has no more");
        assert!(error.to_string().contains("(`runtime.memory`)"), "{error}");
        assert!(other.memory_growing(0, 2 * PAGE, None).expect("it fits"));
        drop(one);
        assert!(other.memory_growing(2 * PAGE, 4 * PAGE, None).expect("what is dropped is given back"));
    }
}
