//! Copies the payload into one output on `out.echo`: the least that a handler can do, for benchmarks.

use tidemill_sdk::{Event, Output, Result, handler};

/// Copies the payload.
///
/// # Errors
///
/// None.
pub fn handle(event: Event) -> Result<Output> {
    Ok(Output::new("out.echo", event.payload))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use tidemill_sdk::{Output, testing};

    #[test]
    fn copies() {
        assert_eq!(super::handle(testing::event("a", "hi")), Ok(Output::new("out.echo", "hi")));
    }
}
