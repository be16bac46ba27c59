//! The names of the interfaces between host and guest, and which versions fit together.

use tidemill_policy::manifest::Handler;

/// The handler interface that the host serves.
pub(super) const SERVED: &str = "tidemill:handler/handler@0.1.0";

/// The handler interface of wasmCloud's messaging, which is served as well.
pub(super) const MESSAGING: &str = "wasmcloud:messaging/handler@0.2.0";

/// Every interface that is linked. A test compares this list with the linker.
const OFFERED: [&str; 32] = [
    "tidemill:handler/types@0.1.0",
    "wasi:cli/environment@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/terminal-input@0.2.12",
    "wasi:cli/terminal-output@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:config/store@0.2.0-rc.1",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:logging/logging@0.1.0-draft",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:sockets/network@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
    "wasmcloud:messaging/consumer@0.2.0",
    "wasmcloud:messaging/types@0.2.0",
];

/// What is linked for those handlers only that are granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `allow.http`.
    Http,
    /// `allow.keyvalue`.
    KeyValue,
}

/// Every interface that is linked with a grant.
const GRANTED: [(&str, Grant); 4] = [
    ("wasi:http/outgoing-handler@0.2.12", Grant::Http),
    ("wasi:http/types@0.2.12", Grant::Http),
    ("wasi:keyvalue/atomics@0.2.0-draft2", Grant::KeyValue),
    ("wasi:keyvalue/store@0.2.0-draft2", Grant::KeyValue),
];

impl Grant {
    /// What a handler is granted.
    pub(super) fn of(handler: &Handler) -> Vec<Grant> {
        let grants =
            [(Grant::Http, handler.allow.http.is_empty()), (Grant::KeyValue, handler.allow.keyvalue.is_empty())];
        grants.into_iter().filter(|(_, is_missing)| !is_missing).map(|(grant, _)| grant).collect()
    }

    /// The key of the manifest.
    pub fn key(self) -> &'static str {
        match self {
            Grant::Http => "allow.http",
            Grant::KeyValue => "allow.keyvalue",
        }
    }

    /// How the key may look.
    pub fn example(self) -> &'static str {
        match self {
            Grant::Http => "allow.http = [\"https://api.example\"]",
            Grant::KeyValue => "allow.keyvalue = [\"templates\"]",
        }
    }
}

/// Whether an import is on offer to every handler, in the version asked for or a compatible one.
pub(super) fn offers(import: &str) -> bool {
    OFFERED.iter().any(|offered| are_compatible(offered, import))
}

/// The handler interface among a component's exports, of whichever version. Where it has both, ours comes first.
pub(super) fn handler(exports: &[String]) -> Option<&String> {
    let name = |interface: &str| interface.split('@').next().map(str::to_owned);
    [SERVED, MESSAGING].iter().find_map(|served| exports.iter().find(|export| name(export) == name(served)))
}

/// The grant that it takes to be offered an import.
pub(super) fn grant_for(import: &str) -> Option<Grant> {
    GRANTED.iter().find(|(offered, _)| are_compatible(offered, import)).map(|(_, grant)| *grant)
}

/// The version of a handler interface that the host serves.
pub(super) fn served(handler: &str) -> &'static str {
    if handler.starts_with("wasmcloud:") { MESSAGING } else { SERVED }
}

/// Whether two names of interfaces mean the same, as wasmtime's linker sees it: the same name, and
/// versions that are equal or on the same track.
pub(super) fn are_compatible(one: &str, other: &str) -> bool {
    one == other || track(one).is_some_and(|one| Some(one) == track(other))
}

/// An interface's name and the part of its version that matters: 1 of 1.2.3, 0.1 of 0.1.2. Pre-releases
/// and versions like 0.0.1 are compatible with nothing else.
fn track(interface: &str) -> Option<(&str, u64, u64)> {
    let (name, version) = interface.split_once('@')?;
    let version = version.split('+').next()?;
    let numbers: Result<Vec<u64>, _> = version.split('.').map(str::parse).collect();
    match numbers.ok()?[..] {
        [0, 0, _] => None,
        [0, minor, _] => Some((name, 0, minor)),
        [major, _, _] => Some((name, major, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{GRANTED, Grant, OFFERED, grant_for, offers, track};
    use crate::invoker::wasm::link;

    #[test]
    fn tracks_are_those_of_the_linker() {
        for (interface, expected) in [
            ("x", None),
            ("x:y/z", None),
            ("x:y/z@1.0.0", Some(("x:y/z", 1, 0))),
            ("x:y/z@2.1.2+abc", Some(("x:y/z", 2, 0))),
            ("x:y/z@0.1.2", Some(("x:y/z", 0, 1))),
            ("x:y/z@0.2.3+abc", Some(("x:y/z", 0, 2))),
            ("x:y/z@0.0.1", None),
            ("x:y/z@0.1.0-pre", None),
            ("x:y/z@1.0.0-pre", None),
            ("x:y/z@1.0", None),
            ("x:y/z@1.0.0.0", None),
            ("x:y/z@", None),
        ] {
            assert_eq!(track(interface), expected, "{interface}");
        }
    }

    #[test]
    fn imports_are_matched_by_compatible_version() {
        for (import, offered) in [
            ("wasi:cli/environment@0.2.0", true),
            ("wasi:cli/environment@0.2.99", true),
            ("wasi:cli/environment@0.3.0", false),
            ("wasi:logging/logging@0.1.0-draft", true),
            ("wasi:logging/logging@0.1.0", false),
            ("wasi:config/store@0.2.0-rc.1", true),
            ("wasi:config/store@0.2.0-rc.2", false),
            ("tidemill:handler/types@0.2.0", false),
            ("wasi:http/types@0.2.10", false),
            ("acme:bank/accounts", false),
            ("not a name", false),
        ] {
            assert_eq!(offers(import), offered, "{import}");
        }
    }

    #[test]
    fn what_is_offered_is_linked() {
        let engine = wasmtime::Engine::default();
        let mut linker = link::linker(&engine).expect("everything can be linked");
        let mut is_free = |name: &str| linker.root().func_wrap(name, |_, (): ()| Ok(())).is_ok();
        assert!(is_free("wasi:cli/environment@0.2.11"));
        for interface in OFFERED {
            assert!(!is_free(interface), "{interface} is not linked");
        }
        for (interface, _) in GRANTED {
            assert!(is_free(interface), "{interface} is linked without a grant");
        }
    }

    #[test]
    fn what_is_granted_is_linked() {
        let engine = wasmtime::Engine::default();
        let common = link::linker(&engine).expect("everything can be linked");
        for (interface, grant) in GRANTED {
            assert_eq!(grant_for(interface), Some(grant));
            let mut linker = link::granted(&common, &[grant]).expect("it can be linked");
            assert!(linker.root().func_wrap(interface, |_, (): ()| Ok(())).is_err(), "{interface} is not linked");
        }
        assert_eq!(grant_for("wasi:http/types@0.2.3"), Some(Grant::Http));
        assert_eq!(grant_for("wasi:http/incoming-handler@0.2.12"), None);
    }
}
