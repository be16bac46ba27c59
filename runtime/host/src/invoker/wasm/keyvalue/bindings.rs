//! Rust types for `wasi:keyvalue`. Generated; nothing is written here by hand.

wasmtime::component::bindgen!({
    inline: "package tidemill:keys; world guest { import wasi:keyvalue/store@0.2.0-draft2; import wasi:keyvalue/atomics@0.2.0-draft2; }",
    path: "../../wit",
    world: "tidemill:keys/guest",
    imports: { default: async | trappable },
    with: {
        "wasi:keyvalue/store.bucket": super::Bucket,
        "wasi:keyvalue/atomics.cas": super::Cas,
    },
});
