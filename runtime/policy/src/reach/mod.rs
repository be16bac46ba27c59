//! What a handler may reach outside: which requests (`allow.http`) and which keys (`allow.keyvalue`) are granted.
//!
//! A grant and a request are read by the same code, so that they cannot be understood differently. What is not plain is
//! refused rather than tidied up.

pub mod address;
pub mod http;
pub mod keyvalue;
pub mod origin;

pub use http::{HttpGrant, Target};
pub use keyvalue::KeyGrant;
pub use origin::{Host, Origin, Scheme};
