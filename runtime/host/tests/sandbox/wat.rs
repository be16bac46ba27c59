//! Guests written by hand, for what no compiler would make.

use std::path::Path;

use wit_parser::Resolve;

/// Interfaces of WASI that are not part of the contract, as far as the tests need them.
const WASI: &str = r"
package tests:wasi;

package wasi:cli@0.2.3 {
  interface environment {
    get-environment: func() -> list<tuple<string, string>>;
    get-arguments: func() -> list<string>;
    initial-cwd: func() -> option<string>;
  }
}
package wasi:filesystem@0.2.3 {
  interface types { resource descriptor; }
  interface preopens {
    use types.{descriptor};
    get-directories: func() -> list<tuple<descriptor, string>>;
  }
}
package wasi:sockets@0.2.3 {
  interface network {
    enum ip-address-family { ipv4, ipv6 }
    enum error-code {
      unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
      concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
      address-not-bindable, address-in-use, remote-unreachable, connection-refused,
      connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
      temporary-resolver-failure, permanent-resolver-failure
    }
  }
  interface tcp { resource tcp-socket; }
  interface tcp-create-socket {
    use network.{ip-address-family, error-code};
    use tcp.{tcp-socket};
    create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
  }
}
world guest {
  import wasi:cli/environment@0.2.3;
  import wasi:filesystem/preopens@0.2.3;
  import wasi:sockets/tcp-create-socket@0.2.3;
  import wasi:logging/logging@0.1.0-draft;
  import wasi:random/insecure@0.2.12;
  import wasi:random/insecure-seed@0.2.12;
  export tidemill:handler/handler@0.1.0;
}
";

/// A guest that runs `body` and returns one output: the bytes at address 512, as many as the byte at
/// address 511 says. `imports` are fields of the module; results of host functions fit at address 256.
pub(crate) fn guest(imports: &str, body: &str) -> Vec<u8> {
    module(&guest_text(imports, body))
}

/// The same without a component type.
pub(crate) fn untyped_guest(imports: &str, body: &str) -> Vec<u8> {
    binary(&guest_text(imports, body))
}

fn guest_text(imports: &str, body: &str) -> String {
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 8)
            (global $next (mut i32) (i32.const 1024))
            (data (i32.const 16) "\00\00\00\00\40\00\00\00\01\00\00\00")
            (data (i32.const 64) "\80\00\00\00\03\00\00\00")
            (data (i32.const 104) "\00\02\00\00")
            (data (i32.const 128) "out")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $start i32)
                (local.set $start
                    (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $start) (local.get 3)))
                (local.get $start))
            (func $body {body})
            (func (export "tidemill:handler/handler@0.1.0#handle") (param i32) (result i32)
                (call $body)
                (i32.store (i32.const 108) (i32.load8_u (i32.const 511)))
                (i32.const 16))
        )"#
    )
}

/// A core module with a component type, as wit-bindgen makes it.
pub(crate) fn module(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    resolve.push_path(contract).expect("the contract is valid");
    let package = resolve.push_str("wasi.wit", WASI).expect("the test's WIT is valid");
    let world = resolve.select_world(&[package], Some("guest")).expect("there is a world");
    let mut bytes = binary(text);
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, wit_component::StringEncoding::UTF8)
        .expect("the world can be embedded");
    bytes
}

/// A file from its text form.
pub(crate) fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the text is valid")
}
