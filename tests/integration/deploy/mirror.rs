//! The copy of a bucket: what is in it, what is left out, and what is never seen.

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::HeaderMap;
use serde_json::json;
use tempfile::TempDir;
use tidemill::broker::nats::connect::Target;
use tidemill::broker::nats::objects::{self, Content};
use tidemill::broker::nats::{Nats, preflight};
use tidemill::bucket::{Mirror, SyncError};
use tidemill_policy::manifest::{Auth, SecretRef};

use super::*;
use crate::support::parse;

/// A server with a user who may do no more than is needed, and one who may do all.
const ACCOUNTS: &str = r#"
accounts { APP { jetstream: enabled, users: [
  { user: admin, password: "admin" }
  { user: narrow, password: "narrow", permissions: {
    subscribe: ["_INBOX.>", "$O.shared.M.>"]
    publish: ["$SYS.REQ.USER.INFO", "$JS.API.STREAM.INFO.OBJ_shared", "$JS.API.STREAM.MSG.GET.OBJ_shared"]
  } }
] } }
no_auth_user: admin
"#;

fn target(world: &World, auth: Auth) -> Target {
    Target { urls: vec![world.server.url.clone()], auth, tls: None, base: world.folder.path().to_owned() }
}

fn mirror(world: &World, folder: &Path) -> Mirror {
    Mirror::new("shared".into(), folder.to_owned(), target(world, Auth::None))
}

/// All that is in a folder, hidden files left out.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("within").display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with('.') {
                all.insert(name, fs::read(&path).expect("read"));
            }
        }
    }
    all
}

fn expected(files: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
}

/// Describes an object as somebody might who means no good.
async fn describe(world: &World, name: &str, meta: serde_json::Value) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    let subject = format!("$O.shared.M.{}", data_encoding::BASE64URL.encode(name.as_bytes()));
    let mut full = json!({ "name": name, "bucket": "shared", "nuid": "n", "size": 1, "chunks": 1 });
    full.as_object_mut().expect("an object").extend(meta.as_object().expect("an object").clone());
    let sent = world.context.publish_with_headers(subject, headers, full.to_string().into()).await;
    sent.expect("sent").await.expect("stored");
}

#[tokio::test]
async fn the_copy_holds_plain_files_and_nothing_outside_of_it() {
    let world = World::start().await;
    let store = make_store(&world).await;
    let outer = TempDir::new().expect("a folder");
    let folder = outer.path().join("a/copy");
    let mirror = mirror(&world, &folder);
    assert!(mirror.sync().await.expect("an empty bucket").problems.is_empty());
    let fine = [("a.wasm", "1"), ("a.toml", "2"), ("a.cases/one.toml", "3"), ("empty.toml", "")];
    let odd =
        ["../up.wasm", "/abs.wasm", "..", "a/b.wasm", ".hidden.toml", "notes.txt", "a.cases/../c.toml", "a\\b.toml"];
    for (name, content) in fine {
        put(&store, name, content).await;
    }
    for name in odd {
        put(&store, name, "odd").await;
    }
    assert!(mirror.sync().await.expect("copied").problems.is_empty());
    assert_eq!(files(&folder), expected(&fine));
    let around: Vec<_> = fs::read_dir(outer.path())
        .expect("a folder")
        .chain(fs::read_dir(outer.path().join("a")).expect("a folder"))
        .collect();
    assert_eq!(around.len(), 2, "{around:?}");

    // What is changed here is put right, and what is deleted there goes.
    fs::write(folder.join("a.wasm"), "changed").expect("written");
    fs::write(folder.join("more.toml"), "more").expect("written");
    fs::write(folder.join("notes.txt"), "mine").expect("written");
    store.delete("a.cases/one.toml").await.expect("deleted");
    put(&store, "a.toml", "new").await;
    mirror.sync().await.expect("copied");
    assert_eq!(
        files(&folder),
        expected(&[("a.wasm", "1"), ("a.toml", "new"), ("empty.toml", ""), ("notes.txt", "mine")])
    );

    world.context.delete_object_store("shared").await.expect("deleted");
    assert!(matches!(mirror.sync().await, Err(SyncError::Missing(_))));
    assert_eq!(files(&folder).len(), 4);
}

#[tokio::test]
async fn what_is_wrong_in_the_bucket_leaves_what_was_there() {
    let world = World::start().await;
    let store = make_store(&world).await;
    let folder = TempDir::new().expect("a folder");
    let mirror = mirror(&world, folder.path());
    let names = ["large.toml", "huge.wasm", "link.wasm", "bare.wasm", "gone.wasm", "forged.wasm"];
    for name in names {
        put(&store, name, "before").await;
    }
    mirror.sync().await.expect("copied");
    put(&store, "large.toml", vec![b'#'; (1 << 20) + 1]).await;
    let digest = format!("SHA-256={}", data_encoding::BASE64URL.encode(&[0; 32]));
    describe(&world, "huge.wasm", json!({ "size": 1_u64 << 40, "digest": digest })).await;
    describe(&world, "link.wasm", json!({ "options": { "link": { "bucket": "other" } } })).await;
    describe(&world, "bare.wasm", json!({})).await;
    describe(&world, "gone.wasm", json!({ "nuid": "nothing", "digest": digest })).await;
    let forged = world.context.publish("$O.shared.C.forged", "x".into()).await.expect("sent");
    forged.await.expect("stored");
    describe(&world, "forged.wasm", json!({ "nuid": "forged", "digest": digest })).await;
    put(&store, "fine.wasm", "after").await;
    let problems = mirror.sync().await.expect("copied").problems;
    assert_eq!(problems.len(), names.len(), "{problems:#?}");
    for (name, why) in
        names.iter().zip(["1048577 bytes", "1099511627776 bytes", "a link", "no SHA-256", "replaced", "SHA-256"])
    {
        assert!(problems.iter().any(|one| one.contains(name) && one.contains(why)), "{name} {why}: {problems:#?}");
    }
    let mut all = files(folder.path());
    assert_eq!(all.remove("fine.wasm").as_deref(), Some(b"after".as_slice()));
    assert!(all.len() == names.len() && all.values().all(|content| content == b"before"), "{:?}", all.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copiers_of_one_folder_see_whole_files_only_while_they_are_replaced() {
    let world = World::start().await;
    make_store(&world).await;
    let folder = TempDir::new().expect("a folder");
    let nats = Nats::new(world.client.clone(), std::sync::Arc::default());
    // Larger than a chunk, of one byte each.
    let content = |number: u8| Content { name: "a.wasm".into(), bytes: vec![number; 700_000].into() };
    objects::put(&nats, "shared", &[content(0)]).await.expect("put");
    mirror(&world, folder.path()).sync().await.expect("copied");
    let writing = async {
        for number in 1..=30 {
            objects::put(&nats, "shared", &[content(number)]).await.expect("put");
        }
    };
    let copying = async {
        let mirrors = [mirror(&world, folder.path()), mirror(&world, folder.path())];
        loop {
            for mirror in &mirrors {
                mirror.sync().await.expect("copied");
                let bytes = fs::read(folder.path().join("a.wasm")).expect("there");
                assert!(bytes.len() == 700_000 && bytes.iter().all(|byte| *byte == bytes[0]), "half a file");
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = copying => {}
    }
    let last = mirror(&world, folder.path());
    last.sync().await.expect("copied");
    assert_eq!(fs::read(folder.path().join("a.wasm")).expect("there"), vec![30; 700_000]);
    let put = objects::put(&nats, "shared", &[content(30)]).await.expect("put");
    assert!(put[0].is_unchanged);
    let stored = store(&world).await.info("a.wasm").await.expect("described as all clients do");
    assert_eq!((stored.size, stored.chunks), (700_000, 6));
    let mut stream = world.context.get_stream("OBJ_shared").await.expect("the stream");
    assert_eq!(stream.info().await.expect("told").state.messages, 7, "what was replaced takes no space");
}

#[tokio::test]
async fn a_narrow_user_is_enough_and_less_is_told() {
    let world = World::start_with(ACCOUNTS).await;
    let store = make_store(&world).await;
    put(&store, "a.wasm", "1").await;
    let folder = TempDir::new().expect("a folder");
    fs::write(world.folder.path().join("password"), "narrow").expect("written");
    let auth = Auth::User { user: "narrow".into(), password: SecretRef::File("password".into()) };
    let narrow = Mirror::new("shared".into(), folder.path().to_owned(), target(&world, auth.clone()));
    narrow.sync().await.expect("copied");
    assert_eq!(files(folder.path()), expected(&[("a.wasm", "1")]));
    let other = Mirror::new("other".into(), folder.path().to_owned(), target(&world, auth.clone()));
    let denied = other.sync().await.expect_err("denied").to_string();
    assert!(denied.starts_with("runtime.plugins: ") && denied.contains("$JS.API.STREAM.INFO.OBJ_other"), "{denied}");

    let user = target(&world, auth);
    let connected = tidemill::broker::nats::connect::connect(&user, "test", std::sync::Arc::default()).await;
    let (client, link) = connected.expect("a connection");
    let manifest = parse("[runtime]\nplugins = 'nats:other'\n");
    let found = preflight::check(&Nats::new(client, link), &manifest).await.expect("an answer");
    for subject in ["$JS.API.STREAM.INFO.OBJ_other", "$JS.API.STREAM.MSG.GET.OBJ_other"] {
        let needed = |one: &String| one.contains(subject) && one.contains("runtime.plugins");
        assert!(found.conflicts.iter().any(needed), "{found:?}");
    }
    assert!(found.warnings.iter().any(|one| one.contains("$O.other.M.>")), "{found:?}");
}
