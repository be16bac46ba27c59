//! Computes the price of an order.
//!
//! Input, on `order.placed`:
//!
//! ```json
//! {"order_id": "o-1", "customer_id": "c-1", "coupon": "WELCOME10",
//!  "items": [{"sku": "tea", "quantity": 2, "unit_price_cents": 450}]}
//! ```
//!
//! Output, on `order.priced`: the order's totals in cents.
//!
//! For the sake of the demo two notes make the handler misbehave, to show that the host bounds it: with
//! `"note": "loop"` it never ends, with `"note": "hog"` it takes memory until it gets no more.

mod misbehave;
mod price;

use serde::Deserialize;
use tidemill_sdk::{Event, Failure, Output, Result, handler, log};

use crate::price::Item;

#[derive(Deserialize)]
struct OrderPlaced {
    order_id: String,
    customer_id: String,
    items: Vec<Item>,
    #[serde(default)]
    coupon: Option<String>,
    #[serde(default)]
    note: Option<String>,
}

/// Prices one order.
///
/// # Errors
///
/// Rejects an order that is malformed, empty, too large to compute with, or has an unknown coupon.
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its event")]
pub fn handle(event: Event) -> Result<Output> {
    let order: OrderPlaced = event.json()?;
    match order.note.as_deref() {
        Some("loop") => misbehave::forever(),
        Some("hog") => misbehave::without_bound(),
        _ => {}
    }
    let priced = price::price(order.order_id, order.customer_id, &order.items, order.coupon.as_deref())
        .map_err(|error| Failure::reject(error.to_string()))?;
    log::info!("order {} costs {} cents", priced.order_id, priced.total_cents);
    Ok(Output::json("order.priced", &priced)?.kind("order.priced"))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Failure, testing};

    use super::handle;

    #[test]
    fn an_order_is_priced() {
        let order = json!({
            "order_id": "o-1",
            "customer_id": "c-1",
            "coupon": "WELCOME10",
            "items": [
                {"sku": "tea", "quantity": 2, "unit_price_cents": 450},
                {"sku": "mug", "quantity": 1, "unit_price_cents": 999},
            ],
        });
        let output = handle(testing::event("order.placed", order.to_string())).expect("it is valid");
        assert_eq!(output.subject, "order.priced");
        let priced: Value = serde_json::from_slice(&output.payload).expect("the output is JSON");
        let expected = json!({
            "order_id": "o-1",
            "customer_id": "c-1",
            "items": 3,
            "subtotal_cents": 1899,
            "discount_cents": 189,
            "total_cents": 1710,
        });
        assert_eq!(priced, expected);
    }

    #[test]
    fn what_is_no_order_is_rejected() {
        for payload in ["", "[]", r#"{"order_id": "o-1", "customer_id": "c-1", "items": [{}]}"#] {
            let failure = handle(testing::event("order.placed", payload)).expect_err(payload);
            assert!(matches!(failure, Failure::Reject(_)), "{payload}: {failure}");
        }
    }
}
