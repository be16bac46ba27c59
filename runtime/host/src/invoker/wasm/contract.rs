//! The contract in `wit/` as a type for core modules that do not say theirs.
//!
//! Compilers of many languages can neither write nor link the section that carries a component's type. What such a
//! module exports and imports goes by the names of the contract, so its type is known: it is that of the contract.

use anyhow::Context;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve, WorldId};

/// What a core module calls the function of the handler that the host serves.
pub(super) const HANDLE: &str = "tidemill:handler/handler@0.1.0#handle";

/// The world that such a module is taken to be written for. It need not import all that the world does.
const WORLD: &str = "plugin-full";

const HANDLER: (&str, &str) = ("handler.wit", include_str!("../../../../../wit/handler.wit"));

/// The packages that it names, each after those that it needs itself.
const DEPENDENCIES: [(&str, &str); 8] = [
    ("io.wit", include_str!("../../../../../wit/deps/io.wit")),
    ("clocks.wit", include_str!("../../../../../wit/deps/clocks.wit")),
    ("config.wit", include_str!("../../../../../wit/deps/config.wit")),
    ("logging.wit", include_str!("../../../../../wit/deps/logging.wit")),
    ("random.wit", include_str!("../../../../../wit/deps/random.wit")),
    ("http.wit", include_str!("../../../../../wit/deps/http.wit")),
    ("keyvalue.wit", include_str!("../../../../../wit/deps/keyvalue.wit")),
    ("wasmcloud-messaging.wit", include_str!("../../../../../wit/deps/wasmcloud-messaging.wit")),
];

/// Adds the contract's type to a core module.
///
/// # Errors
///
/// Never, unless `wit/` is not what its tests hold it to.
pub(super) fn embed(module: &mut Vec<u8>) -> anyhow::Result<()> {
    let (resolve, world) = world()?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

fn world() -> anyhow::Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let mut push = |(path, text): (&str, &str)| -> anyhow::Result<PackageId> {
        resolve.push_str(path, text).with_context(|| format!("wit/{path}"))
    };
    for dependency in DEPENDENCIES {
        push(dependency)?;
    }
    let handler = push(HANDLER)?;
    let world = resolve.select_world(&[handler], Some(WORLD))?;
    Ok((resolve, world))
}

#[cfg(test)]
mod tests {
    use super::{HANDLE, embed, world};
    use crate::invoker::wasm::offer;

    #[test]
    fn the_function_is_the_one_of_the_interface_that_is_served() {
        assert_eq!(HANDLE.strip_suffix("#handle"), Some(offer::SERVED));
    }

    #[test]
    fn everything_that_the_world_imports_is_offered() {
        let (resolve, world) = world().expect("wit/ is in order");
        for key in resolve.worlds[world].imports.keys() {
            let import = resolve.name_world_key(key);
            assert!(offer::offers(&import) || offer::grant_for(&import).is_some(), "{import}");
        }
    }

    #[test]
    fn a_type_is_added_and_nothing_else_changed() {
        let module = b"\0asm\x01\0\0\0".to_vec();
        let mut typed = module.clone();
        embed(&mut typed).expect("wit/ is in order");
        assert!(typed.starts_with(&module));
        assert!(typed.windows(14).any(|bytes| bytes == b"component-type"));
    }
}
