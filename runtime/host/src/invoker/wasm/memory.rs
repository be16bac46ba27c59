//! The memory that all guests of the process share: who has how much, counted exactly, and idle instances that are
//! dropped where somebody needs theirs.
//!
//! Who may take how much is decided by the ledger of the policy. Memory of the host's own is not counted: stacks,
//! copies of events and outputs, compiled code.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tidemill_policy::share::memory::{AccountId, Ledger, Shortage};

use super::pool::Pool;

/// The memory of all guests. Clones are handles to the same.
#[derive(Clone)]
pub(super) struct Memory(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    pools: Mutex<BTreeMap<AccountId, Weak<Pool>>>,
}

/// What one handler's instances have. Closed when the last of them is gone.
pub(super) struct Account {
    memory: Memory,
    id: AccountId,
}

/// What one instance has. Given back when this is dropped, which must not be before the instance is.
pub(super) struct Lease {
    account: Arc<Account>,
    bytes: AtomicU64,
}

impl Memory {
    /// Memory of `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Memory {
        let shared = Shared { ledger: Mutex::new(Ledger::new(capacity)), pools: Mutex::default() };
        Memory(Arc::new(shared))
    }

    /// Opens an account for a handler that never needs more than `need` bytes, with the pool of its idle instances.
    pub(super) fn open(&self, handler: &str, need: u64, pool: &Arc<Pool>) -> Arc<Account> {
        let id = self.ledger().open(handler, need);
        lock(&self.0.pools).insert(id, Arc::downgrade(pool));
        Arc::new(Account { memory: self.clone(), id })
    }

    /// What is in use, in bytes.
    pub(super) fn used(&self) -> u64 {
        self.ledger().used()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.0.ledger)
    }

    /// Takes memory, and drops idle instances as long as that helps.
    fn take(&self, id: AccountId, bytes: u64) -> Result<(), Shortage> {
        loop {
            let (shortage, lenders) = {
                let mut ledger = self.ledger();
                match ledger.take(id, bytes) {
                    Ok(()) => return Ok(()),
                    Err(shortage) => (shortage, ledger.lenders(id)),
                }
            };
            if !lenders.into_iter().any(|lender| self.drop_idle(lender)) {
                return Err(shortage);
            }
        }
    }

    /// Drops an idle instance of a handler, if it has one.
    fn drop_idle(&self, id: AccountId) -> bool {
        let pool = lock(&self.0.pools).get(&id).and_then(Weak::upgrade);
        pool.is_some_and(|pool| pool.drop_longest_idle())
    }
}

impl Account {
    /// A lease for a new instance, of nothing yet.
    pub(super) fn lease(self: &Arc<Self>) -> Arc<Lease> {
        Arc::new(Lease { account: Arc::clone(self), bytes: AtomicU64::new(0) })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.memory.ledger().close(self.id);
        lock(&self.memory.0.pools).remove(&self.id);
    }
}

impl Lease {
    /// Takes more.
    ///
    /// # Errors
    ///
    /// What stands against it, if dropping idle instances did not help.
    pub(super) fn take(&self, bytes: u64) -> Result<(), Shortage> {
        self.account.memory.take(self.account.id, bytes)?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.account.memory.ledger().give_back(self.account.id, bytes);
    }
}

/// Nothing here panics while it holds a lock, so that what is behind it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
