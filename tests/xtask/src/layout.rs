//! Holds the kits that were written by hand to the contract: where `wit/handler.wit` puts each field in memory, as
//! checks in the kits' own languages.
//!
//! `UPDATE_GOLDEN=1 cargo test --workspace --lib layout` writes the checks anew; what they then say is wrong is to be corrected
//! in the kit.

use std::fmt::Write as _;
use std::fs;

use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind, TypeId};

use crate::paths;

/// A record of the contract: its name, its fields with their offsets, and its size in bytes.
struct Layout {
    name: String,
    fields: Vec<(String, usize)>,
    bytes: usize,
}

fn layouts() -> Vec<Layout> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(paths::root().join("wit")).expect("the contract is valid");
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let types = resolve.packages[package].interfaces["types"];
    let type_named = |name: &str| resolve.interfaces[types].types[name];
    ["event", "output", "error", "failure"].map(|name| layout(&resolve, &sizes, name, type_named(name))).into()
}

fn layout(resolve: &Resolve, sizes: &SizeAlign, name: &str, id: TypeId) -> Layout {
    let fields = match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            let offsets = sizes.field_offsets(record.fields.iter().map(|field| &field.ty));
            let names = record.fields.iter().map(|field| field.name.clone());
            names.zip(offsets.iter().map(|(offset, _)| offset.size_wasm32())).collect()
        }
        TypeDefKind::Variant(variant) => {
            let offset = sizes.payload_offset(variant.tag(), variant.cases.iter().map(|case| case.ty.as_ref()));
            vec![("error".to_owned(), offset.size_wasm32())]
        }
        other => panic!("{name} is a {}", other.as_str()),
    };
    Layout { name: name.to_owned(), fields, bytes: sizes.size(&Type::Id(id)).size_wasm32() }
}

const NOTE: &str = "Written by `UPDATE_GOLDEN=1 cargo test --workspace --lib layout` from wit/handler.wit.";

fn c() -> String {
    let mut text = format!("/* {NOTE} */\n#include <stddef.h>\n\n#include \"tidemill.h\"\n");
    for Layout { name, fields, bytes } in layouts() {
        writeln!(text, "\n_Static_assert(sizeof(tm_{name}) == {bytes}, \"{name}\");").expect("written");
        for (field, offset) in fields {
            let field = field.replace('-', "_");
            writeln!(text, "_Static_assert(offsetof(tm_{name}, {field}) == {offset}, \"{name}.{field}\");")
                .expect("written");
        }
    }
    text
}

fn zig() -> String {
    let mut text = format!(
        "//! {NOTE}\n\nconst abi = @import(\"src/abi.zig\");\nconst expectEqual = @import(\"std\").testing.expectEqual;\n\n\
         test \"the contract's types lie in memory as they should\" {{\n"
    );
    for Layout { name, fields, bytes } in layouts() {
        let name = capitalised(&name);
        writeln!(text, "    try expectEqual({bytes}, @sizeOf(abi.{name}));").expect("written");
        for (field, offset) in fields {
            let field = field.replace('-', "_");
            writeln!(text, "    try expectEqual({offset}, @offsetOf(abi.{name}, \"{field}\"));").expect("written");
        }
    }
    text + "}\n"
}

fn go() -> String {
    let mut text = format!(
        "// {NOTE}\n\npackage tidemill\n\nimport (\n\t\"testing\"\n\t\"unsafe\"\n)\n\n\
         func TestTheContractsTypesLieInMemoryAsTheyShould(t *testing.T) {{\n"
    );
    let mut checks = String::new();
    for Layout { name, fields, bytes } in layouts() {
        let raw = format!("raw{}", capitalised(&name));
        writeln!(text, "\tvar {name} {raw}").expect("written");
        writeln!(checks, "\t\t{{\"{name}\", unsafe.Sizeof({name}), {bytes}}},").expect("written");
        for (field, offset) in fields {
            let camel = camel(&field);
            writeln!(checks, "\t\t{{\"{name}.{field}\", unsafe.Offsetof({name}.{camel}), {offset}}},")
                .expect("written");
        }
    }
    text + "\tfor _, check := range []struct {\n\t\tname          string\n\t\tfound, wanted uintptr\n\t}{\n"
        + &checks
        + "\t} {\n\t\tif check.found != check.wanted {\n\t\t\tt.Errorf(\"%s: %d instead of %d\", check.name, check.found, check.wanted)\n\t\t}\n\t}\n}\n"
}

fn capitalised(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    words.next().unwrap_or_default().to_owned() + &words.map(capitalised).collect::<String>()
}

#[test]
fn the_kits_check_the_layout_of_the_contract() {
    for (file, expected) in [
        ("tests/guests/cases-c/layout.h", c()),
        ("sdk/zig/layout.zig", zig()),
        ("sdk/go/tidemill/layout_test.go", go()),
    ] {
        let path = paths::root().join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &expected).expect("written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{file} is not of wit/: UPDATE_GOLDEN=1 cargo test --workspace --lib layout");
    }
}
