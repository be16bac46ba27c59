//! Prices in whole cents; whatever does not fit is an error, never a wrong number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One line of an order.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Item {
    /// What is bought.
    pub(crate) sku: String,
    /// How many of it.
    pub(crate) quantity: u32,
    /// What one of it costs.
    pub(crate) unit_price_cents: u64,
}

/// An order with its price.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Priced {
    /// The order.
    pub(crate) order_id: String,
    /// Whose order it is.
    pub(crate) customer_id: String,
    /// How many pieces it has.
    pub(crate) items: u64,
    /// The price before the discount.
    pub(crate) subtotal_cents: u64,
    /// The coupon's discount, rounded down.
    pub(crate) discount_cents: u64,
    /// What is to be paid.
    pub(crate) total_cents: u64,
}

/// Why an order has no price.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It has no items.
    Empty,
    /// An item has no name, or none of it is ordered.
    Item(String),
    /// No such coupon exists.
    Coupon(String),
    /// The sum is too large to compute with.
    TooLarge,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the order has no items"),
            Self::Item(sku) => write!(f, "the item {sku:?} needs a name and a quantity of at least 1"),
            Self::Coupon(code) => write!(f, "there is no coupon {code:?}"),
            Self::TooLarge => write!(f, "the order's sum is too large"),
        }
    }
}

/// Computes the price of an order.
pub(crate) fn price(
    order_id: String,
    customer_id: String,
    items: &[Item],
    coupon: Option<&str>,
) -> Result<Priced, Invalid> {
    if items.is_empty() {
        return Err(Invalid::Empty);
    }
    let mut subtotal_cents = 0_u64;
    let mut pieces = 0_u64;
    for item in items {
        if item.sku.is_empty() || item.quantity == 0 {
            return Err(Invalid::Item(item.sku.clone()));
        }
        let quantity = u64::from(item.quantity);
        let line = item.unit_price_cents.checked_mul(quantity).ok_or(Invalid::TooLarge)?;
        subtotal_cents = subtotal_cents.checked_add(line).ok_or(Invalid::TooLarge)?;
        pieces = pieces.checked_add(quantity).ok_or(Invalid::TooLarge)?;
    }
    let percent = coupon.map_or(Ok(0), percent_off)?;
    let discount_cents = subtotal_cents.checked_mul(percent).ok_or(Invalid::TooLarge)? / 100;
    Ok(Priced {
        order_id,
        customer_id,
        items: pieces,
        subtotal_cents,
        discount_cents,
        total_cents: subtotal_cents - discount_cents,
    })
}

/// The discount of a coupon, at most 100.
fn percent_off(coupon: &str) -> Result<u64, Invalid> {
    match coupon {
        "WELCOME10" => Ok(10),
        "HALF" => Ok(50),
        other => Err(Invalid::Coupon(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Invalid, Item, price};

    fn item(quantity: u32, unit_price_cents: u64) -> Item {
        Item { sku: "tea".to_owned(), quantity, unit_price_cents }
    }

    fn total(items: &[Item], coupon: Option<&str>) -> Result<u64, Invalid> {
        price("o".to_owned(), "c".to_owned(), items, coupon).map(|priced| priced.total_cents)
    }

    #[test]
    fn totals() {
        for (items, coupon, expected) in [
            (vec![item(1, 100)], None, Ok(100)),
            (vec![item(3, 333), item(1, 1)], None, Ok(1000)),
            (vec![item(1, 0)], None, Ok(0)),
            (vec![item(1, 999)], Some("WELCOME10"), Ok(900)),
            (vec![item(1, 999)], Some("HALF"), Ok(500)),
            (vec![], None, Err(Invalid::Empty)),
            (vec![item(0, 100)], None, Err(Invalid::Item("tea".to_owned()))),
            (vec![item(1, 100)], Some("FREE"), Err(Invalid::Coupon("FREE".to_owned()))),
            (vec![item(2, u64::MAX)], None, Err(Invalid::TooLarge)),
            (vec![item(1, u64::MAX), item(1, 1)], None, Err(Invalid::TooLarge)),
            (vec![item(1, u64::MAX)], Some("HALF"), Err(Invalid::TooLarge)),
        ] {
            assert_eq!(total(&items, coupon), expected, "{items:?} {coupon:?}");
        }
    }
}
