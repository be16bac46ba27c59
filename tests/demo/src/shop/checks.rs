//! Compares what the shop has come to with what it must. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Fact, Ledger};
use super::orders::Order;
use crate::checks::Check;
use crate::text::count;

/// Checks everything.
pub(super) fn all(orders: &[Order], ledger: &Ledger, stopped: Stopped, retries: u64) -> Vec<Check> {
    vec![
        every_fact_once(orders, ledger),
        retries_made(orders, retries),
        all_undone(orders, ledger),
        one_correlation(ledger),
        projection_right(orders, ledger),
        audited(ledger),
        stopped_and_caught_up(stopped),
        nothing_left(ledger),
    ]
}

/// What happened while a handler was stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    /// The orders that came in.
    pub(super) orders: usize,
    /// What the other handlers were done with meanwhile.
    pub(super) others: u64,
    /// What it was done with when it was started again, of what had waited for it.
    pub(super) caught_up: (u64, u64),
}

fn by_order(ledger: &Ledger) -> BTreeMap<&str, Vec<&str>> {
    let mut all = BTreeMap::<&str, Vec<&str>>::new();
    for fact in ledger.facts.iter().filter(|fact| fact.subject != "audit.recorded" && fact.cause.is_some()) {
        all.entry(&fact.correlation).or_default().push(&fact.subject);
    }
    for facts in all.values_mut() {
        facts.sort_unstable();
    }
    all
}

/// From each order follows what must, and nothing else or twice.
fn every_fact_once(orders: &[Order], ledger: &Ledger) -> Check {
    let found = by_order(ledger);
    let right = orders.iter().filter(|order| found.get(&*order.id) == Some(&order.facts())).count();
    let facts: usize = found.values().map(Vec::len).sum();
    let figures = format!("{} of {} orders, {} facts", count(right), count(orders.len()), count(facts));
    Check::new(right == orders.len() && found.len() == orders.len(), "every fact once", figures)
}

/// Payments were tried again where the bank was busy, and nothing else was.
fn retries_made(orders: &[Order], made: u64) -> Check {
    let wanted: u64 = orders.iter().map(Order::retries).sum();
    Check::new(made == wanted, "every retry made", format!("{} of {}", count(made), count(wanted)))
}

/// What was done for an order that came to nothing was undone.
fn all_undone(orders: &[Order], ledger: &Ledger) -> Check {
    let found = by_order(ledger);
    let has = |order: &Order, fact: &str| found.get(&*order.id).is_some_and(|facts| facts.contains(&fact));
    let of = |done: &str, failed: &str, undone: &str| {
        let wanted: Vec<_> = orders.iter().filter(|order| has(order, done) && has(order, failed)).collect();
        (wanted.iter().filter(|order| has(order, undone)).count(), wanted.len())
    };
    let (refunded, paid) = of("payment.captured", "stock.short", "payment.refunded");
    let (released, reserved) = of("stock.reserved", "payment.failed", "stock.released");
    let figures = format!("{refunded} of {paid} payments refunded, {released} of {reserved} reservations released");
    Check::new(refunded == paid && released == reserved && paid + reserved > 0, "what failed was undone", figures)
}

/// Each fact carries the id of the order, and the id of the fact that it followed from.
fn one_correlation(ledger: &Ledger) -> Check {
    let ids: BTreeSet<_> = ledger.facts.iter().map(|fact| (&*fact.correlation, &*fact.id)).collect();
    let is_linked = |fact: &Fact| match &fact.cause {
        Some(cause) => ids.contains(&(&*fact.correlation, &**cause)),
        None => fact.correlation == fact.id,
    };
    let linked = ledger.facts.iter().filter(|fact| is_linked(fact)).count();
    let figures = format!("{} of {} lead back to their order", count(linked), count(ledger.facts.len()));
    Check::new(linked == ledger.facts.len(), "one correlation id", figures)
}

/// The bucket has an entry for each fact of interest, with its amount.
fn projection_right(orders: &[Order], ledger: &Ledger) -> Check {
    let mut wanted = BTreeMap::new();
    for order in orders {
        for fact in order.facts() {
            let value = match fact {
                "payment.captured" | "payment.refunded" => order.cents,
                "order.refused" | "payment.failed" | "stock.reserved" | "stock.released" => 1,
                _ => continue,
            };
            wanted.insert(format!("orders.{}.{}", order.id, fact.replace('.', "_")), value);
        }
    }
    let sum = |fact: &str| ledger.entries.iter().filter(|(key, _)| key.ends_with(fact)).map(|(_, cents)| cents).sum();
    let (captured, refunded): (u64, u64) = (sum("payment_captured"), sum("payment_refunded"));
    let euros = captured.saturating_sub(refunded) / 100;
    let figures = format!("{} entries, a turnover of {} euros", count(ledger.entries.len()), count(euros));
    Check::new(ledger.entries == wanted, "figures right", figures)
}

/// The audit has one record for each fact.
fn audited(ledger: &Ledger) -> Check {
    let (records, facts): (Vec<_>, Vec<_>) = ledger.facts.iter().partition(|fact| fact.subject == "audit.recorded");
    let causes: BTreeSet<_> = records.iter().filter_map(|record| record.cause.as_deref()).collect();
    let recorded = facts.iter().filter(|fact| causes.contains(&*fact.id)).count();
    let figures = format!("{} records of {} facts", count(records.len()), count(facts.len()));
    Check::new(recorded == facts.len() && records.len() == facts.len(), "everything audited", figures)
}

/// While one handler was stopped the others went on, and it caught up.
fn stopped_and_caught_up(stopped: Stopped) -> Check {
    let Stopped { orders, others, caught_up: (done, waited) } = stopped;
    let figures = format!(
        "{orders} orders came without inventory: others did {}, then it did {} of {}",
        count(others),
        count(done),
        count(waited)
    );
    Check::new(done == waited && waited > 0, "a stopped handler caught up", figures)
}

fn nothing_left(ledger: &Ledger) -> Check {
    let figures = format!("{} dead letters, {} messages unsettled", ledger.dead_letters, ledger.unsettled);
    Check::new(ledger.dead_letters == 0 && ledger.unsettled == 0, "nothing lost, nothing left", figures)
}
