//! Works out what an order comes to.

use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Output, handler, log};

/// What is read of an order.
#[derive(Debug, Deserialize)]
struct Order {
    order_id: String,
    quantity: u64,
    unit_price_cents: u64,
}

/// What is told of it.
#[derive(Debug, Serialize)]
struct Totalled {
    order_id: String,
    total_cents: u64,
}

/// Handles an event.
///
/// # Errors
///
/// A rejection, if the order is malformed or comes to more than can be said.
pub fn handle(event: Event) -> Result<Output, Failure> {
    let order: Order = event.json()?; // malformed: rejected
    if order.quantity == 0 {
        return Err(Failure::reject("quantity must be at least 1").code(422));
    }
    let total_cents = order.quantity.checked_mul(order.unit_price_cents);
    let total_cents =
        total_cents.ok_or_else(|| Failure::reject("the order comes to more than can be said"))?;
    log::info!("order {} comes to {total_cents} cents", order.order_id);
    let totalled = Totalled {
        order_id: order.order_id,
        total_cents,
    };
    Ok(Output::json("order.totalled", &totalled)?.kind("order.totalled"))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Failure, testing};

    use super::handle;

    #[test]
    fn an_order_comes_to_its_quantity_times_the_price() {
        let order = json!({ "order_id": "o-1", "quantity": 3, "unit_price_cents": 450 });
        let output = handle(testing::event("order.placed", order.to_string())).expect("handled");
        let totalled: Value = serde_json::from_slice(&output.payload).expect("JSON");
        assert_eq!(output.subject, "order.totalled");
        assert_eq!(totalled, json!({ "order_id": "o-1", "total_cents": 1350 }));
    }

    #[test]
    fn an_order_without_a_quantity_is_rejected() {
        let order = json!({ "order_id": "o-2", "unit_price_cents": 450 });
        let result = handle(testing::event("order.placed", order.to_string()));
        assert!(matches!(result, Err(Failure::Reject(_))));
    }
}
