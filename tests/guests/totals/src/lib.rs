//! Adds up an order: parses JSON and writes JSON, for benchmarks. A hand-written consumer can do the same by
//! calling [`total`].

use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Output, Result, handler};

/// An order, as it comes in.
#[derive(Debug, Deserialize)]
struct Order<'a> {
    /// What tells the order from others.
    number: &'a str,
    customer: &'a str,
    lines: Vec<Line<'a>>,
    /// How many attempts fail before it is added up.
    #[serde(default)]
    failures: u32,
}

#[derive(Debug, Deserialize)]
struct Line<'a> {
    article: &'a str,
    quantity: u64,
    cents: u64,
}

/// What it comes to.
#[derive(Debug, Serialize)]
struct Total<'a> {
    number: &'a str,
    customer: &'a str,
    articles: Vec<&'a str>,
    cents: u64,
}

/// Adds up the order in `payload`, or nothing where its attempt is to fail.
///
/// # Errors
///
/// If the payload is no order.
pub fn total(payload: &[u8], attempt: u32) -> serde_json::Result<Option<Vec<u8>>> {
    let order: Order = serde_json::from_slice(payload)?;
    if attempt <= order.failures {
        return Ok(None);
    }
    let total = Total {
        number: order.number,
        customer: order.customer,
        articles: order.lines.iter().map(|line| line.article).collect(),
        cents: order.lines.iter().map(|line| line.quantity * line.cents).sum(),
    };
    serde_json::to_vec(&total).map(Some)
}

/// Adds up the order.
///
/// # Errors
///
/// A retry where the order says so, a rejection where it is none.
pub fn handle(event: Event) -> Result<Output> {
    let Event { payload, attempt, .. } = event;
    match total(&payload, attempt) {
        Ok(Some(total)) => Ok(Output::new("out.total", total)),
        Ok(None) => Err(Failure::retry("this attempt is to fail")),
        Err(error) => Err(Failure::reject(error.to_string())),
    }
}

handler!(handle);

#[cfg(test)]
mod tests {
    const ORDER: &[u8] =
        br#"{"number":"o1","customer":"c","lines":[{"article":"a","quantity":2,"cents":150}],"failures":1}"#;

    #[test]
    fn adds_up_after_the_failures() {
        assert_eq!(super::total(ORDER, 1).expect("an order"), None);
        let total = super::total(ORDER, 2).expect("an order").expect("a total");
        assert_eq!(total, br#"{"number":"o1","customer":"c","articles":["a"],"cents":300}"#);
    }
}
