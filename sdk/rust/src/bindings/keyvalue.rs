//! What wit-bindgen makes of `wasi:keyvalue`.

wit_bindgen::generate!({
    inline: "package tidemill:sdk-keyvalue; world client { import wasi:keyvalue/store@0.2.0-draft2; import wasi:keyvalue/atomics@0.2.0-draft2; }",
    path: "../../wit",
    world: "tidemill:sdk-keyvalue/client",
    generate_all,
});
