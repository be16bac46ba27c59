//! Writes to the standard error that WASI gives, which Rust's own does not reach on `wasm32-unknown-unknown`.

use tidemill_sdk::Output;

#[cfg(target_arch = "wasm32")]
mod bindings {
    #![allow(unsafe_code, missing_docs, unreachable_pub, reason = "the code is generated")]

    wit_bindgen::generate!({
        path: ["../../../wit/deps/io.wit", "wit"],
        world: "tidemill:unruly/guest",
        with: {
            "wasi:io/error@0.2.12": generate,
            "wasi:io/poll@0.2.12": tidemill_sdk::bindings::wasi::io::poll,
            "wasi:io/streams@0.2.12": generate,
            "wasi:cli/stderr@0.2.12": generate,
        },
    });
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn flood(lines: usize) -> Vec<Output> {
    let stderr = bindings::wasi::cli::stderr::get_stderr();
    for number in 0..lines {
        let line = format!("{number:0100}\n");
        if stderr.blocking_write_and_flush(line.as_bytes()).is_err() {
            break;
        }
    }
    Vec::new()
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn flood(lines: usize) -> Vec<Output> {
    for number in 0..lines {
        eprintln!("{number:0100}");
    }
    Vec::new()
}
