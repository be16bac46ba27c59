//! Reading the schemas of a handler from their files, and what those refer to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tidemill_policy::manifest::Handler;
use tidemill_policy::schema::{Schema, SchemaError, Schemas};

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The most files that one schema may consist of.
const FILES_MAX: usize = 256;

/// Reads and compiles the schemas of a handler; `base` is the folder of the manifest.
///
/// # Errors
/// What is wrong with each, with its key and the remedy.
pub fn read(handler: &Handler, base: &Path) -> Result<Schemas, Vec<String>> {
    read_with_files(handler, base).0
}

/// The texts of files, by their absolute paths.
pub type Files = BTreeMap<PathBuf, String>;

/// As [`read`], with the files that were read.
pub fn read_with_files(handler: &Handler, base: &Path) -> (Result<Schemas, Vec<String>>, Files) {
    let all = RefCell::<Files>::default();
    let schemas = Schemas::load(&handler.schema, |path| {
        let mut files = Files::new();
        let schema = compile(path, base, &mut files);
        all.borrow_mut().append(&mut files);
        schema
    });
    (schemas, all.into_inner())
}

fn compile(relative: &Path, base: &Path, files: &mut Files) -> Result<Schema, String> {
    let name = relative.display().to_string();
    let path = std::path::absolute(base.join(relative)).map_err(|error| format!("{name}: {error}"))?;
    loop {
        let wanted = match Schema::compile(&name, &path, files) {
            Ok(schema) => return Ok(schema),
            Err(SchemaError::Invalid(why)) => return Err(why),
            Err(SchemaError::Wanted(wanted)) => wanted,
        };
        let refers = if files.is_empty() { "" } else { ", which it refers to" };
        if files.len() >= FILES_MAX {
            return Err(format!("{name} refers to more than {FILES_MAX} files; put them into one"));
        }
        let text = read_file(&wanted).map_err(|error| {
            let shown = wanted.display();
            match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("{name}: there is no file {shown}{refers}; add it, or correct the path")
                }
                _ => format!("{name}: cannot read {shown}{refers}: {error}"),
            }
        })?;
        files.insert(wanted, text);
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(files: &[(&str, &str)]) -> Result<Schema, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(folder.path().join("s p")).expect("made");
        for (name, text) in files {
            std::fs::write(folder.path().join("s p").join(name), text).expect("written");
        }
        compile(Path::new("s p/a.json"), folder.path(), &mut Files::new())
            .map_err(|why| why.replace(&*folder.path().to_string_lossy(), "BASE"))
    }

    #[test]
    fn files_beside_a_schema_are_read_where_it_refers_to_them() {
        let schema = compiled(&[
            (
                "a.json",
                r##"{ "properties": { "b": { "$ref": "b%20%C3%BC.json#/$defs/b" }, "a": { "$ref": "#/$defs/a" } },
                             "$defs": { "a": { "type": "integer" } } }"##,
            ),
            ("b ü.json", r#"{ "$defs": { "b": { "$ref": "c.json" } } }"#),
            ("c.json", r#"{ "type": "string" }"#),
        ]);
        let schema = schema.expect("a schema");
        assert_eq!(schema.check(br#"{ "a": 1, "b": "x" }"#), Ok(()));
        let offences = schema.check(br#"{ "a": "x", "b": 1 }"#).expect_err("two offences");
        assert!(offences.contains("/a: it is not of type \"integer\"; /b: it is not of type"), "{offences}");
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told_with_the_remedy() {
        #[track_caller]
        fn check(files: &[(&str, &str)], expected: &str) {
            let why = compiled(files).expect_err("no schema");
            assert!(why.starts_with(expected), "{why}");
        }
        check(&[], "s p/a.json: there is no file BASE/s p/a.json; add it, or correct the path");
        check(
            &[("a.json", r#"{ "$ref": "b.json" }"#)],
            "s p/a.json: there is no file BASE/s p/b.json, which it refers to; add it, or correct the path",
        );
        check(&[("a.json", "{")], "s p/a.json is not JSON: EOF while parsing an object at line 1 column 1; correct");
        check(
            &[("a.json", r#"{ "$ref": "b.json" }"#), ("b.json", "?")],
            "BASE/s p/b.json is not JSON: expected value at line 1 column 1",
        );
        check(
            &[("a.json", r#"{ "$ref": "https://example.org/b.json" }"#)],
            "s p/a.json refers to https://example.org/b.json, and nothing is fetched from elsewhere; keep a copy",
        );
        check(&[("a.json", r#"{ "$ref": "/dev/null" }"#)], "s p/a.json: cannot read /dev/null, which it refers to");
    }
}
