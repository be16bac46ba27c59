//! The manifest as a user meets it: what every mistake is answered with, that the schema, the reference
//! and the reader know the same keys, and that nothing a file may hold makes the parser panic.

#![allow(clippy::unwrap_used)] // a test may fail by panicking

#[path = "manifest/golden.rs"]
mod golden;
#[path = "manifest/render.rs"]
mod render;
#[path = "manifest/roundtrip.rs"]
mod roundtrip;
#[path = "manifest/schema.rs"]
mod schema;
