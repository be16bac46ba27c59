//! Takes the money for an order that was accepted, and gives it back where the stock falls short.
//!
//! The bank is make-believe: a card that begins with `declined` is refused, and one that contains `busy2` is taken at
//! the third attempt only. What the card says is all that it takes to know whether an order was paid, so the handler
//! keeps nothing.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemill_sdk::{Event, Failure, Output, Result, handler, log};

/// What is read of an order that was accepted.
#[derive(Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names are those of the event")]
struct Order {
    order_id: String,
    customer: Value,
    card: String,
    total_cents: u64,
}

/// What was taken.
#[derive(Serialize)]
struct Captured {
    order_id: String,
    customer: Value,
    cents: u64,
}

/// What was given back.
#[derive(Serialize)]
struct Refunded {
    #[serde(flatten)]
    captured: Captured,
    reason: &'static str,
}

/// Handles `order.accepted` and `stock.short`.
///
/// # Errors
///
/// Rejects what is no order, and asks for another attempt while the bank is busy.
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its event")]
pub fn handle(event: Event) -> Result<Option<Output>> {
    match event.subject.as_str() {
        "order.accepted" => charge(&event).map(Some),
        "stock.short" => refund(&event),
        subject => Err(Failure::reject(format!("{subject} is no subject of payments"))),
    }
}

fn charge(event: &Event) -> Result<Output> {
    let order: Order = event.json()?;
    if order.card.contains("busy2") && event.attempt <= 2 {
        return Err(Failure::retry("the bank is busy").code(503));
    }
    if is_declined(&order.card) {
        let mut failed: Map<String, Value> = event.json()?;
        failed.insert("reason".to_owned(), "the card was declined".into());
        return fact("payment.failed", &failed);
    }
    log::info!("order {}: {} cents", order.order_id, order.total_cents);
    fact("payment.captured", &captured(order))
}

fn refund(event: &Event) -> Result<Option<Output>> {
    let order: Order = event.json()?;
    if is_declined(&order.card) {
        return Ok(None); // nothing was taken
    }
    let refunded = Refunded { captured: captured(order), reason: "there is not enough in stock" };
    fact("payment.refunded", &refunded).map(Some)
}

fn is_declined(card: &str) -> bool {
    card.starts_with("declined")
}

fn captured(order: Order) -> Captured {
    Captured { order_id: order.order_id, customer: order.customer, cents: order.total_cents }
}

fn fact(subject: &str, value: &impl Serialize) -> Result<Output> {
    Ok(Output::json(subject, value)?.kind(subject))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Event, Failure, Output, testing};

    use super::handle;

    fn order(card: &str) -> Value {
        json!({
            "order_id": "o-1",
            "customer": {"id": "c-1", "name": "Zoë", "email": "zoe@example.org"},
            "items": [{"sku": "mug", "quantity": 2, "price_cents": 900}],
            "card": card,
            "total_cents": 1800,
        })
    }

    fn event(subject: &str, card: &str, attempt: u32) -> Event {
        Event { attempt, ..testing::event(subject, order(card).to_string()) }
    }

    /// The subject of what was published, and its payload.
    fn told(output: Output) -> (String, Value) {
        assert_eq!(output.kind.as_deref(), Some(output.subject.as_str()));
        (output.subject, serde_json::from_slice(&output.payload).expect("the output is JSON"))
    }

    #[test]
    fn the_card_decides_what_becomes_of_a_payment() {
        let captured = json!({"order_id": "o-1", "customer": order("")["customer"], "cents": 1800});
        let mut failed = order("declined-4000");
        failed["reason"] = json!("the card was declined");
        for (card, attempt, subject, payload) in [
            ("visa-4242", 1, "payment.captured", &captured),
            ("busy2-4242", 3, "payment.captured", &captured),
            ("declined-4000", 1, "payment.failed", &failed),
        ] {
            let output = handle(event("order.accepted", card, attempt)).expect(card).expect(card);
            assert_eq!(told(output), (subject.to_owned(), payload.clone()), "{card}");
        }
    }

    #[test]
    fn a_bank_that_is_busy_is_asked_again() {
        for attempt in 1..=2 {
            let failure = handle(event("order.accepted", "visa-busy2", attempt)).expect_err("it is busy");
            assert_eq!(failure, Failure::retry("the bank is busy").code(503));
        }
    }

    #[test]
    fn what_was_taken_is_given_back_where_the_stock_falls_short() {
        let output = handle(event("stock.short", "visa-busy2", 1)).expect("handled").expect("a refund");
        let (subject, payload) = told(output);
        let expected = json!({
            "order_id": "o-1",
            "customer": order("")["customer"],
            "cents": 1800,
            "reason": "there is not enough in stock",
        });
        assert_eq!((subject.as_str(), payload), ("payment.refunded", expected));
        assert_eq!(handle(event("stock.short", "declined-4000", 1)), Ok(None));
    }

    #[test]
    fn what_is_no_order_is_rejected() {
        for (subject, payload) in [("order.accepted", "{}"), ("stock.short", "{}"), ("order.placed", "{}")] {
            let failure = handle(testing::event(subject, payload)).expect_err(subject);
            assert!(matches!(failure, Failure::Reject(_)), "{subject}: {failure}");
        }
    }
}
