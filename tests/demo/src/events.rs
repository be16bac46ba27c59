//! What is published: orders and registrations, with the odd ones at fixed places, and for each of them what
//! must become of it. Every run publishes the same.

use serde_json::{Value, json};
use tidemill_policy::history::Kind;

/// How many orders are published.
pub(crate) const ORDERS: u32 = 3_000;
/// How many registrations are published: one after every third order.
pub(crate) const REGISTRATIONS: u32 = 1_000;

/// The handlers in `plugins/tidemill.toml`.
pub(crate) const ORDER_PRICING: &str = "order-pricing";
/// Handles what `order-pricing` publishes.
pub(crate) const LOYALTY_POINTS: &str = "loyalty-points";
/// Handles registrations.
pub(crate) const WELCOME_EMAIL: &str = "welcome-email";

/// The attempts that `plugins/tidemill.toml` grants an order.
const PRICING_ATTEMPTS: u32 = 3;
/// The attempts that `plugins/tidemill.toml` grants a priced order.
const POINTS_ATTEMPTS: u32 = 5;
/// The setting `points_per_euro` in `plugins/tidemill.toml`.
const POINTS_PER_EURO: u64 = 2;

/// An event to publish.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Where to.
    pub(crate) subject: &'static str,
    /// Its id: the broker recognises a repeat by it, and all that follows from the event carries it.
    pub(crate) id: String,
    /// The payload.
    pub(crate) payload: String,
    /// What is odd about it, in the words of the summary.
    pub(crate) oddity: Option<&'static str>,
    /// What must become of it: one step for each handler that gets it or what follows from it.
    pub(crate) steps: Vec<Step>,
}

/// What one handler must make of an event.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The handler.
    pub(crate) handler: &'static str,
    /// How many attempts fail and are followed by another.
    pub(crate) retries: u32,
    /// How it ends.
    pub(crate) end: End,
}

/// How a handler is done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It publishes one output, told apart by the value of [`output_key`].
    Output(String),
    /// The event is given up on for one of these reasons.
    DeadLetter(&'static [Kind]),
}

/// The subjects of the outputs, who publishes them, and the members that say which one it is and whether it
/// is right.
pub(crate) const OUTPUTS: [(&str, &str, [&str; 2]); 3] = [
    ("order.priced", ORDER_PRICING, ["order_id", "total_cents"]),
    ("loyalty.awarded", LOYALTY_POINTS, ["order_id", "points"]),
    ("mail.sent", WELCOME_EMAIL, ["user_id", "to"]),
];

/// What tells an output from the others on its subject, such as `o-0017 1299`.
pub(crate) fn output_key(payload: &[u8], members: [&str; 2]) -> String {
    let value: Value = serde_json::from_slice(payload).unwrap_or_default();
    members.map(|name| value[name].as_str().map_or_else(|| value[name].to_string(), str::to_owned)).join(" ")
}

/// All events in the order in which they are published.
pub(crate) fn all() -> Vec<Event> {
    let mut registrations = (1..=REGISTRATIONS).map(registration);
    let mut events = Vec::new();
    for number in 1..=ORDERS {
        events.push(order(number));
        if number % 3 == 0 {
            events.extend(registrations.next());
        }
    }
    events
}

/// What kind of order it is; its place says so.
fn order(number: u32) -> Event {
    let id = format!("o-{number:04}");
    match number {
        400 => unpriced(id, "malformed", |order| order[..order.len() / 2].to_owned()),
        1_100 => unpriced(id, "malformed", |order| order.replace("\"items\":[", "\"items\":[7,")),
        1_900 => unpriced(id, "malformed", |_| "order 1900: two mugs, please".to_owned()),
        600 => misbehaving(&id, json!({"coupon": "FREE-MONEY"}), "rejected", 0, &[Kind::Reject]),
        1_000 => {
            let note = json!({"note": "loop"});
            misbehaving(&id, note, "never ends", PRICING_ATTEMPTS - 1, &[Kind::Fuel, Kind::Timeout])
        }
        1_500 => {
            let note = json!({"note": "hog"});
            misbehaving(&id, note, "takes all memory", PRICING_ATTEMPTS - 1, &[Kind::Memory])
        }
        2_000 => priced(format!("{id}-busy9"), number, Some("fails every time"), POINTS_ATTEMPTS - 1),
        _ if number % 150 == 75 => priced(format!("{id}-busy2"), number, Some(TWICE), 2),
        _ => priced(id, number, None, 0),
    }
}

/// The oddity of events that pass at the third attempt.
const TWICE: &str = "fails twice, then passes";

/// An order that is priced. What becomes of it then is up to `loyalty-points`, which gives up after the last
/// attempt.
fn priced(id: String, number: u32, oddity: Option<&'static str>, retries: u32) -> Event {
    let (order, total_cents) = order_body(&id, number, json!({}));
    let points = total_cents / 100 * POINTS_PER_EURO;
    let end = if retries + 1 < POINTS_ATTEMPTS {
        End::Output(format!("{id} {points}"))
    } else {
        End::DeadLetter(&[Kind::Retry])
    };
    let steps = vec![
        Step { handler: ORDER_PRICING, retries: 0, end: End::Output(format!("{id} {total_cents}")) },
        Step { handler: LOYALTY_POINTS, retries, end },
    ];
    Event { subject: "order.placed", id, payload: order, oddity, steps }
}

/// An order that was damaged on its way.
fn unpriced(id: String, oddity: &'static str, damage: impl Fn(&str) -> String) -> Event {
    let (payload, _) = order_body(&id, 1, json!({}));
    dead(id, damage(&payload), oddity, 0, &[Kind::Reject])
}

/// An order with more members, which lead to its end.
fn misbehaving(id: &str, more: Value, oddity: &'static str, retries: u32, reasons: &'static [Kind]) -> Event {
    let (payload, _) = order_body(id, 1, more);
    dead(id.to_owned(), payload, oddity, retries, reasons)
}

fn dead(id: String, payload: String, oddity: &'static str, retries: u32, reasons: &'static [Kind]) -> Event {
    let steps = vec![Step { handler: ORDER_PRICING, retries, end: End::DeadLetter(reasons) }];
    Event { subject: "order.placed", id, payload, oddity: Some(oddity), steps }
}

/// An order of one to three items, and what it costs.
fn order_body(id: &str, number: u32, more: Value) -> (String, u64) {
    const SHELF: [(&str, u64); 5] = [("tea", 450), ("mug", 999), ("honey", 725), ("kettle", 3_490), ("spoon", 80)];
    let mut items = Vec::new();
    let mut subtotal_cents = 0;
    for (place, (sku, unit_price_cents)) in
        SHELF.iter().cycle().skip(number as usize % 5).take(1 + number as usize % 3).enumerate()
    {
        let quantity = 1 + (u64::from(number) + place as u64) % 4;
        subtotal_cents += quantity * unit_price_cents;
        items.push(json!({"sku": sku, "quantity": quantity, "unit_price_cents": unit_price_cents}));
    }
    let mut order = json!({"order_id": id, "customer_id": format!("c-{}", number % 97), "items": items});
    let percent_off = match number % 10 {
        0 => 50,
        5 => 10,
        _ => 0,
    };
    if percent_off > 0 {
        order["coupon"] = if percent_off == 50 { json!("HALF") } else { json!("WELCOME10") };
    }
    if let (Some(order), Value::Object(more)) = (order.as_object_mut(), more) {
        order.extend(more);
    }
    (order.to_string(), subtotal_cents - subtotal_cents * percent_off / 100)
}

/// What kind of registration it is; its place says so. Registrations are queue messages.
fn registration(number: u32) -> Event {
    let id = format!("r-{number:04}");
    let user = |address: &str| json!({"user_id": number, "email": address, "name": format!("User {number}")});
    let address = format!("user{number}@example.org");
    match number {
        120 => {
            let mut cut = queue_message(&id, &user(&address));
            cut.truncate(cut.len() / 2);
            mail(id, cut, Some("malformed"), 0, End::DeadLetter(&[Kind::Reject]))
        }
        480 => {
            let payload = queue_message(&id, &json!({"user_id": number, "name": "No Address"}));
            mail(id, payload, Some("malformed"), 0, End::DeadLetter(&[Kind::Reject]))
        }
        810 => {
            let payload = queue_message(&id, &user("user810 at example.org"));
            mail(id, payload, Some("rejected"), 0, End::DeadLetter(&[Kind::Reject]))
        }
        _ if number % 100 == 50 => {
            let address = format!("user{number}+quota2@example.org");
            let end = End::Output(format!("{number} {address}"));
            mail(id.clone(), queue_message(&id, &user(&address)), Some(TWICE), 2, end)
        }
        _ => {
            let end = End::Output(format!("{number} {address}"));
            mail(id.clone(), queue_message(&id, &user(&address)), None, 0, end)
        }
    }
}

fn mail(id: String, payload: String, oddity: Option<&'static str>, retries: u32, end: End) -> Event {
    let steps = vec![Step { handler: WELCOME_EMAIL, retries, end }];
    Event { subject: "registration.welcome_email", id, payload, oddity, steps }
}

fn queue_message(id: &str, payload: &Value) -> String {
    let queue = "registration.welcome_email";
    json!({"id": id, "queue": queue, "dispatch_date": "2026-11-21T08:00:00Z", "payload": payload}).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidemill_policy::manifest::{self, Source};

    use super::*;

    #[test]
    fn every_event_has_an_id_of_its_own_and_every_run_publishes_the_same() {
        let events = all();
        assert_eq!(events.len(), (ORDERS + REGISTRATIONS) as usize);
        let ids: BTreeSet<_> = events.iter().map(|event| &event.id).collect();
        assert_eq!(ids.len(), events.len());
        let payloads = |events: &[Event]| events.iter().map(|event| event.payload.clone()).collect::<Vec<_>>();
        assert_eq!(payloads(&events), payloads(&all()));
    }

    #[test]
    fn the_manifest_says_what_the_expectations_rest_on() {
        let path = crate::host::manifest();
        let text = std::fs::read_to_string(&path).expect("the demo's manifest");
        let source = Source { path: "tidemill.toml", text: &text };
        let manifest = manifest::parse(source, &[], &|_| None).expect("it is valid").manifest;
        assert_eq!(manifest.handlers[ORDER_PRICING].retry.max_attempts, PRICING_ATTEMPTS);
        assert_eq!(manifest.handlers[LOYALTY_POINTS].retry.max_attempts, POINTS_ATTEMPTS);
        assert_eq!(manifest.handlers[LOYALTY_POINTS].config["points_per_euro"], POINTS_PER_EURO.to_string());
        assert!(manifest.handlers[WELCOME_EMAIL].retry.max_attempts > 2);
    }

    #[test]
    fn the_damage_is_damage() {
        for event in all().iter().filter(|event| event.oddity.is_none()) {
            assert!(serde_json::from_str::<Value>(&event.payload).is_ok(), "{event:?}");
        }
        let plain = order(1).payload;
        assert!(order(1_100).payload.contains("[7,") && !plain.contains("[7,"));
        assert!(serde_json::from_str::<Value>(&order(400).payload).is_err());
    }

    #[test]
    fn totals_are_what_the_order_says() {
        let (payload, total) = order_body("o", 5, json!({}));
        let order: Value = serde_json::from_str(&payload).expect("JSON");
        let sum: u64 = order["items"].as_array().expect("items").iter().map(line).sum();
        assert_eq!(order["coupon"], "WELCOME10");
        assert_eq!(total, sum - sum / 10);
    }

    fn line(item: &Value) -> u64 {
        item["quantity"].as_u64().expect("a number") * item["unit_price_cents"].as_u64().expect("a number")
    }

    #[test]
    fn keys_hold_what_tells_outputs_apart() {
        assert_eq!(output_key(br#"{"order_id":"o-1","total_cents":7}"#, ["order_id", "total_cents"]), "o-1 7");
        assert_eq!(output_key(b"no JSON", ["order_id", "total_cents"]), "null null");
    }
}
