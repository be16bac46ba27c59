//! What wit-bindgen makes of `wasi:http`.

wit_bindgen::generate!({
    inline: "package tidemill:sdk-http; world client { import wasi:http/outgoing-handler@0.2.12; }",
    path: "../../wit",
    world: "tidemill:sdk-http/client",
    generate_all,
    with: {
        "wasi:io/poll@0.2.12": crate::bindings::wasi::io::poll,
        "wasi:clocks/monotonic-clock@0.2.12": crate::bindings::wasi::clocks::monotonic_clock,
    },
});
