//! Rust types for `wit/handler.wit`. Generated; nothing is written here by hand.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "tidemill:handler/plugin",
    ownership: Borrowing { duplicate_if_necessary: false },
    exports: { default: async },
    with: {
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:random": wasmtime_wasi::p2::bindings::random,
        "wasi:io": wasmtime_wasi::p2::bindings::io,
    },
});

/// The interfaces of wasmCloud's messaging.
pub(super) mod messaging {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "tidemill:handler/messaging",
        ownership: Borrowing { duplicate_if_necessary: true },
        exports: { default: async },
    });
}
