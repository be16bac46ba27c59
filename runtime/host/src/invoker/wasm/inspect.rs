//! Looks at a file's bytes: what it is, what it imports and exports. Nothing is compiled or run.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use super::contract;
use super::error::Problem;
use super::offer::{self, Grant};

/// What wit-bindgen calls the section in which a core module says what its component is.
const COMPONENT_TYPE_SECTION: &str = "component-type";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component.
    Component,
    /// A core module, which is made a component when it is loaded: it says how, or exports what a handler does.
    CoreModule,
}

/// An interface that a component imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The interface's name, with its version.
    pub name: String,
    /// Whether the host offers it, in this or a compatible version. One that holds nothing but types
    /// need not be offered.
    pub offered: bool,
    /// The grant without which the host does not offer it.
    pub grant: Option<Grant>,
}

/// What a file is, imports and exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it is.
    pub kind: Kind,
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// What the component imports, in its order.
    pub imports: Vec<Import>,
    /// What the component exports, in its order.
    pub exports: Vec<String>,
    /// The handler interface that it exports, of whichever version.
    pub handler: Option<String>,
}

/// Looks at a file's bytes. Imports and exports are those of the component, also for a core module.
///
/// # Errors
///
/// If the bytes are neither a component nor a core module that can be made one.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Problem> {
    Ok(describe(bytes, &component(bytes)?))
}

/// Describes a file, given the component that it is or was made into.
pub(super) fn describe(file: &[u8], component: &ComponentBytes<'_>) -> Inspection {
    let imports = component.outline.imports.iter();
    let exports = component.outline.exports.clone();
    Inspection {
        kind: component.kind,
        size_bytes: file.len() as u64,
        digest: digest(file),
        imports: imports.map(|name| import(name)).collect(),
        handler: offer::handler(&exports).cloned(),
        exports,
    }
}

fn import(name: &str) -> Import {
    Import { name: name.to_owned(), offered: offer::offers(name), grant: offer::grant_for(name) }
}

/// What a component is named by: SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// A component's bytes, and what was found in them.
pub(super) struct ComponentBytes<'a> {
    /// What the file is that they come from.
    pub(super) kind: Kind,
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) outline: Outline,
}

/// A file as a component: as it is, or made from a core module.
pub(super) fn component(file: &[u8]) -> Result<ComponentBytes<'_>, Problem> {
    if !file.starts_with(b"\0asm") {
        return Err(Problem::NotWasm { found: resembles(file) });
    }
    let corrupt = |error: BinaryReaderError| Problem::Corrupt(error.to_string());
    let outline = outline(file).map_err(corrupt)?;
    if outline.kind == Kind::Component {
        return Ok(ComponentBytes { kind: Kind::Component, bytes: Cow::Borrowed(file), outline });
    }
    if !outline.has_component_type && !outline.exports_handle {
        return Err(Problem::PlainModule);
    }
    let bytes = encode(file, &outline).map_err(|error| Problem::Encode(format!("{error:#}")))?;
    Ok(ComponentBytes {
        kind: Kind::CoreModule,
        outline: self::outline(&bytes).map_err(corrupt)?,
        bytes: Cow::Owned(bytes),
    })
}

fn resembles(file: &[u8]) -> &'static str {
    match file {
        [] => "empty",
        [0x7f, b'E', b'L', b'F', ..] => "a native or precompiled binary",
        [b'(', ..] => "WebAssembly text, to be converted with `wasm-tools parse`",
        [b'P', b'K', ..] => "a zip archive",
        [b'#', b'!', ..] => "a script",
        _ if file.len() < 4 => "a file of a few bytes",
        _ => "another kind of file",
    }
}

fn encode(module: &[u8], outline: &Outline) -> anyhow::Result<Vec<u8>> {
    let mut module = Cow::Borrowed(module);
    if !outline.has_component_type {
        contract::embed(module.to_mut())?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module)?;
    if outline.uses_preview1 {
        encoder = encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    }
    encoder.encode()
}

/// What the sections of a file say, without a look at its code.
pub(super) struct Outline {
    kind: Kind,
    /// What the outermost component imports.
    pub(super) imports: Vec<String>,
    /// What the outermost component exports.
    pub(super) exports: Vec<String>,
    /// How many memories are defined, at all depths.
    pub(super) memories: u32,
    /// The initial size of these, in bytes.
    pub(super) memory_bytes: u64,
    has_component_type: bool,
    /// Whether a core module exports a function that is called like the one of a handler.
    exports_handle: bool,
    uses_preview1: bool,
}

fn outline(bytes: &[u8]) -> Result<Outline, BinaryReaderError> {
    let mut outline = Outline {
        kind: Kind::CoreModule,
        imports: Vec::new(),
        exports: Vec::new(),
        memories: 0,
        memory_bytes: 0,
        has_component_type: false,
        exports_handle: false,
        uses_preview1: false,
    };
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && *encoding == Encoding::Component {
                    outline.kind = Kind::Component;
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => outline.add(payload, depth == 1)?,
        }
    }
    Ok(outline)
}

impl Outline {
    fn add(&mut self, payload: Payload<'_>, outermost: bool) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::ComponentImportSection(imports) if outermost => {
                for import in imports {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if outermost => {
                for export in exports {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ImportSection(imports) if outermost => {
                for import in imports.into_imports() {
                    self.uses_preview1 |= import?.module == WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
                }
            }
            Payload::ExportSection(exports) if outermost => {
                for export in exports {
                    self.exports_handle |= export?.name == contract::HANDLE;
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory?;
                    let page = 1_u64 << memory.page_size_log2.unwrap_or(16).min(16);
                    let size = memory.initial.saturating_mul(page);
                    self.memories = self.memories.saturating_add(1);
                    self.memory_bytes = self.memory_bytes.saturating_add(size);
                }
            }
            Payload::CustomSection(section) if outermost => {
                self.has_component_type |= section.name().starts_with(COMPONENT_TYPE_SECTION);
            }
            _ => {}
        }
        Ok(())
    }
}
