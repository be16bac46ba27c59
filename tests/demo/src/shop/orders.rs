//! What is ordered, and which facts must follow from each order. Every run orders the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// How many orders there are; the second half comes while a handler is stopped.
pub(crate) const ORDERS: u32 = 200;
/// An order that is paid for before it turns out that there is too little in stock.
pub(crate) const TRACED: u32 = 5;

/// The largest quantity that is in stock, in `plugins/shop/tidemill.toml`.
const IN_STOCK: u32 = 20;

/// What is odd about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usual,
    /// The bank is busy at the first two attempts.
    Patient,
    /// From a customer that is not trusted.
    Suspicious,
    Unpaid,
    /// Of more than there is.
    Short,
    UnpaidAndShort,
}

impl Kind {
    fn of(number: u32) -> Kind {
        match number % 20 {
            3 | 13 => Kind::Unpaid,
            5 | 15 => Kind::Short,
            7 => Kind::Suspicious,
            9 => Kind::UnpaidAndShort,
            11 => Kind::Patient,
            _ => Kind::Usual,
        }
    }
}

/// An order.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// Its id, and the correlation id of all that follows from it.
    pub(crate) id: String,
    /// The payload of `order.placed`.
    pub(crate) payload: String,
    /// What it costs.
    pub(crate) cents: u64,
    kind: Kind,
}

/// All orders.
pub(crate) fn all() -> Vec<Order> {
    (1..=ORDERS).map(order).collect()
}

fn order(number: u32) -> Order {
    let kind = Kind::of(number);
    let id = format!("o-{number:04}");
    let quantity = if matches!(kind, Kind::Short | Kind::UnpaidAndShort) { IN_STOCK + 5 } else { number % 4 + 1 };
    let domain = if kind == Kind::Suspicious { "fraud.example" } else { "example.org" };
    let card = match kind {
        Kind::Unpaid | Kind::UnpaidAndShort => "declined-0001",
        Kind::Patient => "visa-busy2",
        _ => "visa-4242",
    };
    let items = [("mug", quantity, 900), ("teapot", 1, 3_450)];
    let cents = items.iter().map(|(_, quantity, cents)| u64::from(*quantity) * cents).sum();
    let items: Vec<Value> = items
        .iter()
        .map(|(sku, quantity, cents)| json!({"sku": sku, "quantity": quantity, "price_cents": cents}))
        .collect();
    let customer =
        json!({"id": format!("c-{number:04}"), "name": "Zoë Ångström", "email": format!("zoe{number}@{domain}")});
    let payload = json!({"order_id": id, "customer": customer, "items": items, "card": card}).to_string();
    Order { id, payload, cents, kind }
}

impl Order {
    /// The facts that follow from it, by subject, without the records of the audit.
    pub(crate) fn facts(&self) -> Vec<&'static str> {
        let mut facts = match self.kind {
            Kind::Usual | Kind::Patient => vec!["order.accepted", "payment.captured", "stock.reserved"],
            Kind::Suspicious => vec!["order.refused"],
            Kind::Unpaid => vec!["order.accepted", "payment.failed", "stock.reserved", "stock.released"],
            Kind::Short => vec!["order.accepted", "payment.captured", "stock.short", "payment.refunded"],
            Kind::UnpaidAndShort => vec!["order.accepted", "payment.failed", "stock.short"],
        };
        let told = facts.iter().filter(|fact| is_told(fact)).count();
        facts.extend(std::iter::repeat_n("notification.sent", told));
        facts.sort_unstable();
        facts
    }

    /// How many attempts at its payment fail, because the bank is busy.
    pub(crate) fn retries(&self) -> u64 {
        if self.kind == Kind::Patient { 2 } else { 0 }
    }
}

/// Whether customers are told of a fact.
fn is_told(fact: &str) -> bool {
    fact == "order.refused" || fact.starts_with("payment.")
}

/// How many events each handler must be done with, for these orders. Where `inventory` is stopped, what it does not
/// publish does not come to the others.
pub(crate) fn events(orders: &[Order], inventory: bool) -> BTreeMap<&'static str, u64> {
    let mut events = BTreeMap::new();
    let mut add = |handler: &'static str, count: usize| *events.entry(handler).or_default() += count as u64;
    for order in orders {
        let mut facts = order.facts();
        if !inventory {
            let is_refunded = facts.contains(&"payment.refunded");
            facts.retain(|fact| !fact.starts_with("stock.") && *fact != "payment.refunded");
            if is_refunded && let Some(place) = facts.iter().position(|fact| *fact == "notification.sent") {
                facts.remove(place);
            }
        }
        let of = |subjects: &[&str]| facts.iter().filter(|fact| subjects.contains(fact)).count();
        add("fraud-check", 1);
        add("payment", of(&["order.accepted", "stock.short"]));
        if inventory {
            add("inventory", of(&["order.accepted", "payment.failed"]));
        }
        add("notification", facts.iter().filter(|fact| is_told(fact)).count());
        let kept = facts.iter().filter(|fact| is_told(fact) || ["stock.reserved", "stock.released"].contains(fact));
        add("analytics", kept.count());
        add("audit", facts.len() + 1);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_add_up() {
        let orders = all();
        let count = |fact: &str| orders.iter().flat_map(Order::facts).filter(|one| *one == fact).count();
        assert_eq!((count("order.accepted"), count("order.refused")), (190, 10));
        assert_eq!((count("payment.captured"), count("payment.failed"), count("payment.refunded")), (160, 30, 20));
        assert_eq!((count("stock.reserved"), count("stock.short"), count("stock.released")), (160, 30, 20));
        assert_eq!(count("notification.sent"), 220);
        let events = events(&orders, true);
        assert_eq!((events["payment"], events["inventory"], events["analytics"]), (220, 220, 400));
        assert_eq!(events["audit"], 200 + 200 + 210 + 210 + 220);
    }

    #[test]
    fn without_the_inventory_nothing_of_the_stock_happens() {
        let orders = all();
        let events = events(&orders, false);
        assert_eq!((events["payment"], events["notification"], events["analytics"]), (190, 200, 200));
        assert!(!events.contains_key("inventory"));
        assert_eq!(events["audit"], 200 + 200 + 190 + 200);
    }
}
