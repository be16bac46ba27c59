//! Who may take how much of the memory that all handlers share.
//!
//! Each handler has a part that is kept for it; the rest goes to whoever asks first. So a handler that eats memory
//! takes nothing from what another is sure of, and nobody has to wait for what was lent, or to be stopped for it.

use std::collections::BTreeMap;

use super::level;

/// The number of an account.
pub type AccountId = u64;

/// The memory of a process: how much there is, and who has taken how much.
#[derive(Debug, Clone)]
pub struct Ledger {
    capacity: u64,
    accounts: BTreeMap<AccountId, Account>,
    next: AccountId,
}

/// One handler's part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    handler: String,
    need: u64,
    sure: u64,
    used: u64,
}

/// Why memory is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// What all handlers may have together, in bytes.
    pub capacity: u64,
    /// What the handler is sure of, in bytes.
    pub sure: u64,
    /// What it has, in bytes.
    pub used: u64,
    /// Who has most, and how much of it, in bytes.
    pub most: (String, u64),
}

impl Ledger {
    /// Nobody has taken anything of `capacity` bytes.
    pub fn new(capacity: u64) -> Ledger {
        Ledger { capacity, accounts: BTreeMap::new(), next: 0 }
    }

    /// What all handlers may have together, in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Opens an account for a handler that never needs more than `need` bytes. What each is sure of is divided anew.
    pub fn open(&mut self, handler: &str, need: u64) -> AccountId {
        let id = self.next;
        self.next += 1;
        self.accounts.insert(id, Account { handler: handler.to_owned(), need, sure: 0, used: 0 });
        self.divide();
        id
    }

    /// Closes an account. What each of the others is sure of is divided anew.
    pub fn close(&mut self, id: AccountId) {
        self.accounts.remove(&id);
        self.divide();
    }

    fn divide(&mut self) {
        let needs: Vec<u64> = self.accounts.values().map(|account| account.need).collect();
        let sure = sure(&needs, self.capacity);
        for (account, sure) in self.accounts.values_mut().zip(sure) {
            account.sure = sure;
        }
    }

    /// Takes memory. Within what a handler is sure of it is granted; beyond, as far as what is kept for others allows.
    ///
    /// # Errors
    ///
    /// What stands against it; nothing is taken then.
    pub fn take(&mut self, id: AccountId, bytes: u64) -> Result<(), Shortage> {
        let Some(account) = self.accounts.get(&id) else { return Err(self.shortage(id)) };
        let (before, after) = (account.used, account.used.saturating_add(bytes));
        let kept = (self.kept() - before.max(account.sure)).saturating_add(after.max(account.sure));
        // Where accounts were opened while others had more than they are sure of now, what is in use decides.
        let fits = if after <= account.sure { self.used().saturating_add(bytes) } else { kept } <= self.capacity;
        if !fits {
            return Err(self.shortage(id));
        }
        if let Some(account) = self.accounts.get_mut(&id) {
            account.used = after;
        }
        Ok(())
    }

    /// Gives memory back.
    pub fn give_back(&mut self, id: AccountId, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.used = account.used.saturating_sub(bytes);
        }
    }

    /// Whose idle memory could help `id` to take more, the one that has most beyond what it is sure of first. What is
    /// kept for others is of no use to it, whether they use it or not.
    pub fn lenders(&self, id: AccountId) -> Vec<AccountId> {
        let beyond = |account: &Account| account.used.saturating_sub(account.sure);
        let others = self.accounts.iter().filter(|(other, account)| **other == id || beyond(account) > 0);
        let mut lenders: Vec<_> = others.map(|(other, account)| (beyond(account), *other)).collect();
        lenders.sort_by_key(|(beyond, other)| (std::cmp::Reverse(*beyond), *other));
        lenders.into_iter().map(|(_, other)| other).collect()
    }

    /// What is in use, in bytes.
    pub fn used(&self) -> u64 {
        self.accounts.values().map(|account| account.used).sum()
    }

    /// What is in use or kept for somebody, in bytes.
    fn kept(&self) -> u64 {
        self.accounts.values().map(|account| account.used.max(account.sure)).sum()
    }

    fn shortage(&self, id: AccountId) -> Shortage {
        let of_it = self.accounts.get(&id);
        let most = self.accounts.values().max_by_key(|account| account.used);
        Shortage {
            capacity: self.capacity,
            sure: of_it.map_or(0, |account| account.sure),
            used: of_it.map_or(0, |account| account.used),
            most: most.map_or_else(Default::default, |account| (account.handler.clone(), account.used)),
        }
    }
}

/// What each of some handlers is sure of, by what each needs at most: all of it, where that fits. Where it does not,
/// at least half of the capacity is kept for them in even parts, and the other half left for whoever asks first.
pub fn sure(needs: &[u64], capacity: u64) -> Vec<u64> {
    let needed = needs.iter().fold(0, |sum: u64, need| sum.saturating_add(*need));
    let lent = needed.saturating_sub(capacity).min(capacity / 2);
    level(needs, capacity - lent)
}

#[cfg(test)]
mod tests;
