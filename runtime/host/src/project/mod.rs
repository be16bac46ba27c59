//! Projects: a folder with the source of one handler. `kits.rs` and `create.rs` write a new one, `recipe.rs` and `build.rs`
//! make a component of one with the usual tool of its language.

pub mod build;
pub mod create;
pub mod kits;
pub mod name;
pub mod recipe;
