//! What wit-bindgen makes of `wit/`: for those who want an interface that has no helper here.
//!
//! Natively every import in here panics when called; the helpers of the other modules do not.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "the code is generated")]

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "keyvalue")]
pub mod keyvalue;

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    generate_all,
    pub_export_macro: true,
    default_bindings_module: "tidemill_sdk::bindings",
});
