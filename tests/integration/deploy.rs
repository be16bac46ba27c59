//! Components from a bucket: what is deployed reaches all instances, each through its own gate.

use std::fs;

use async_nats::jetstream::object_store::{Config, ObjectStore};
use serde_json::Value;

use crate::cli::{Desk, Run};
use crate::reload::folder::{echo, subject, version};
use crate::reload::process::{Process, free_port, ready, request};
use crate::support::{World, eventually, start_server};

mod mirror;

/// A handler that runs versions of the echo component from bucket `shared`.
const HANDLER: &str = "
[handler.h]
subject = 'in.h'
allow = { publish = ['out.>'] }
reload = { guard = '0s' }
";

/// An instance that takes its plugins from bucket `shared`.
struct Site {
    desk: Desk,
    port: u16,
}

impl Site {
    fn new(runtime: &str, handlers: &str) -> Site {
        let port = free_port();
        let runtime = format!("[runtime]\nlisten = '127.0.0.1:{port}'\nplugins = 'nats:shared'\n{runtime}\n");
        Site { desk: Desk::with(&format!("{runtime}{handlers}")), port }
    }

    async fn start(&self, url: &str) -> Process {
        let process = Process::start(&self.desk, url);
        ready(self.port).await;
        process
    }

    fn log(&self) -> String {
        fs::read_to_string(self.desk.folder().join("log")).unwrap_or_default()
    }

    /// Waits until what the instance tells about itself is as it should be.
    async fn tells(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, || async {
            let (_, body) = request(self.port, "GET /api/v1/status", "").ok()?;
            let told: Value = serde_json::from_str(&body).ok()?;
            is_so(&told).then_some(())
        })
        .await;
    }
}

/// Runs `tidemill deploy` for a handler with a file of these bytes.
fn deploy(desk: &Desk, url: &str, handler: &str, component: &[u8], more: &[&str]) -> Run {
    desk.write("new.wasm", component);
    let arguments = ["deploy", "new.wasm", "--handler", handler, "--nats-url", url, "--output", "json"];
    desk.run(&[&arguments, more].concat())
}

async fn store(world: &World) -> ObjectStore {
    world.context.get_object_store("shared").await.expect("the bucket")
}

async fn make_store(world: &World) -> ObjectStore {
    let config = Config { bucket: "shared".into(), ..Config::default() };
    world.context.create_object_store(config).await.expect("a bucket")
}

/// Puts an object as any client does.
async fn put(store: &ObjectStore, name: &str, content: impl AsRef<[u8]>) {
    store.put(name, &mut content.as_ref()).await.expect("put");
}

/// Publishes an event, and checks on which subject its output is.
async fn comes_out_on(world: &World, input: &str, expected: &str) {
    let before = world.messages("OUT").await.len() as u64;
    world.publish(input, &[], "x").await;
    let all = world.wait_for("OUT", before + 1).await;
    assert_eq!(all.last().map(|one| one.subject.as_str()), Some(expected));
}

fn digest_of(run: &Run) -> Value {
    run.json()["digest"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deploy_reaches_all_instances_and_what_is_bad_none() {
    let world = World::in_and_out().await;
    let url = world.server.url.as_str();
    let sites = [Site::new("", HANDLER), Site::new("", HANDLER)];
    let desk = &sites[0].desk;
    let missing = ["runtime.plugins: bucket \"shared\" does not exist", "tidemill deploy", "nats object add shared"];
    desk.run(&["run", "--nats-url", url]).fails(1, &missing);
    desk.run(&["check", "--server", "--nats-url", url]).fails(1, &missing);
    desk.run(&["check"]).fails(2, &["bucket \"shared\"", ".tidemill/plugins.shared", "tidemill check --server"]);
    let made_by_hand = deploy(desk, url, "h", &version(&subject(1)), &[]);
    assert_eq!(made_by_hand.exit, 1, "{made_by_hand:?}");
    assert!(made_by_hand.stdout.contains("--create-bucket"), "{made_by_hand:?}");

    let first = deploy(desk, url, "h", &version(&subject(1)), &["--create-bucket"]);
    assert_eq!(first.succeeds().json()["created_bucket"], true);
    let processes = [sites[0].start(url).await, sites[1].start(url).await];
    comes_out_on(&world, "in.h", &subject(1)).await;
    let second = deploy(desk, url, "h", &version(&subject(2)), &["--wait", "1m"]);
    let json = second.succeeds().json();
    let instances = json["instances"].as_array().expect("instances");
    assert!(instances.len() == 2 && instances.iter().all(|one| one["progress"] == "runs"), "{json}");
    comes_out_on(&world, "in.h", &subject(2)).await;
    let again = deploy(desk, url, "h", &version(&subject(2)), &["--wait", "1m"]);
    assert_eq!(again.succeeds().json()["objects"][0]["unchanged"], true);

    // Refused before it is put.
    let bad = deploy(desk, url, "h", b"garbage", &[]);
    assert_eq!(bad.exit, 1);
    assert!(bad.stdout.contains("not a WebAssembly component") && bad.stdout.contains("nothing was put"), "{bad:?}");
    let nowhere = deploy(desk, url, "other", &echo(), &[]);
    assert_eq!(nowhere.exit, 2, "{nowhere:?}");
    assert!(nowhere.stdout.contains("--manifest-body"), "{nowhere:?}");

    // Put by hand, and refused by each gate.
    let store = store(&world).await;
    put(&store, "h.wasm", b"garbage").await;
    let runs = digest_of(&second);
    for site in &sites {
        site.tells("the refusal", |told| {
            let last = &told["last_reload"];
            last["ok"] == false && last["problems"].to_string().contains("not a WebAssembly component")
        })
        .await;
        site.tells("what ran before", |told| told["handlers"]["h"]["component"] == runs).await;
    }
    comes_out_on(&world, "in.h", &subject(2)).await;

    // Refused by the cases that are in the bucket too.
    put(&store, "h.cases/wrong.toml", "[event]\npayload = 'x'\n[expect]\noutcome = 'reject'\n").await;
    let refused = deploy(desk, url, "h", &version(&subject(3)), &["--wait", "1m"]);
    let json = refused.json();
    let instances = json["instances"].as_array().expect("instances");
    let is_refused = |one: &Value| one["progress"] == "refused" && one["problems"].to_string().contains("wrong.toml");
    assert!(refused.exit == 1 && instances.len() == 2 && instances.iter().all(is_refused), "{json}");
    store.delete("h.cases/wrong.toml").await.expect("deleted");
    deploy(desk, url, "h", &version(&subject(3)), &["--wait", "1m"]).succeeds();
    comes_out_on(&world, "in.h", &subject(3)).await;

    // What runs does not need the bucket.
    world.context.delete_object_store("shared").await.expect("deleted");
    for site in &sites {
        site.tells("the trouble", |told| told["troubles"].to_string().contains("bucket \\\"shared\\\" does not exist"))
            .await;
    }
    comes_out_on(&world, "in.h", &subject(3)).await;
    assert!(desk.folder().join(".tidemill/plugins.shared/h.wasm").is_file());
    drop(processes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_comes_and_goes_with_its_table_in_the_bucket() {
    let world = World::in_and_out().await;
    let url = world.server.url.as_str();
    let site = Site::new("", HANDLER);
    deploy(&site.desk, url, "h", &echo(), &["--create-bucket"]).succeeds();
    let process = site.start(url).await;
    let body = |limit: &str| format!("subject = 'in.extra'\nallow = {{ publish = ['out.>'] }}\n{limit}");
    site.desk.write("body.toml", body("limits = { timeout = 2 }"));
    let more = ["--manifest-body", "body.toml", "--wait", "1m"];
    let wrong = deploy(&site.desk, url, "extra", &version(&subject(7)), &more);
    assert_eq!(wrong.exit, 2, "{wrong:?}");
    assert!(wrong.stdout.contains("extra.toml") && wrong.stdout.contains("did you mean"), "{wrong:?}");
    site.desk.write("body.toml", body(""));
    let taken = deploy(&site.desk, url, "extra", &version(&subject(7)), &more);
    assert_eq!(taken.succeeds().json()["instances"][0]["progress"], "runs");
    comes_out_on(&world, "in.extra", &subject(7)).await;
    // Another table for the same component.
    site.desk.write("body.toml", body("limits = { timeout = '3s' }"));
    let taken = deploy(&site.desk, url, "extra", &version(&subject(7)), &more);
    assert_eq!(taken.succeeds().json()["objects"][1]["unchanged"], true);
    let told = site.desk.run(&["explain", "extra"]);
    assert!(told.succeeds().stdout.contains("3s of time"), "{told:?}");

    let store = store(&world).await;
    for name in ["extra.toml", "extra.wasm"] {
        store.delete(name).await.expect("deleted");
    }
    site.tells("the handler is gone", |told| told["handlers"].get("extra").is_none()).await;
    comes_out_on(&world, "in.h", "out.echo").await;
    process.signal("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_starts_from_the_last_copy_where_the_server_is_away() {
    let world = World::in_and_out().await;
    let url = world.server.url.clone();
    let (site, other) = (Site::new("", HANDLER), Site::new("", HANDLER));
    deploy(&site.desk, &url, "h", &version(&subject(1)), &["--create-bucket"]).succeeds();
    let checked = site.desk.run(&["check", "--server", "--nats-url", &url]);
    checked.succeeds();
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let World { server, folder, .. } = world;
    server.stop().await;
    site.desk.run(&["check"]).succeeds();

    let processes = [Process::start(&site.desk, &url), Process::start(&other.desk, &url)];
    eventually("one starts, one waits", || async {
        let starts = site.log().contains("starting with what was copied before");
        let waits = other.log().contains("nothing was copied before");
        (starts && waits).then_some(())
    })
    .await;
    let server = start_server(folder.path(), Some(port), "").await;
    for site in [&site, &other] {
        ready(site.port).await;
    }
    let taken = deploy(&site.desk, &url, "h", &version(&subject(2)), &["--wait", "1m"]);
    assert_eq!(taken.succeeds().json()["instances"].as_array().map(Vec::len), Some(2), "{taken:?}");
    drop(processes);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_watching_it_is_taken_when_it_is_asked_for() {
    let world = World::in_and_out().await;
    let url = world.server.url.as_str();
    let site = Site::new("watch = false", &HANDLER.replace("guard = '0s'", "guard = '1h', canary = 0.5"));
    deploy(&site.desk, url, "h", &version(&subject(1)), &["--create-bucket"]).succeeds();
    let process = site.start(url).await;
    let waited = deploy(&site.desk, url, "h", &version(&subject(2)), &["--wait", "1s"]);
    assert_eq!((waited.exit, &waited.json()["instances"][0]["progress"]), (1, &Value::from("waiting")));
    let reloaded = site.desk.run(&["reload", "--nats-url", url]);
    assert!(reloaded.succeeds().stdout.contains("swapped h"), "{reloaded:?}");
    let taken = deploy(&site.desk, url, "h", &version(&subject(2)), &["--wait", "1m"]);
    let one = &taken.succeeds().json()["instances"][0];
    assert_eq!((&one["progress"], &one["share"]), (&Value::from("on-trial"), &Value::from(0.5)));
    let shown = site.desk.run(&["status", "--nats-url", url]).succeeds().stdout.clone();
    let digest = digest_of(&taken).as_str().expect("a digest")[..12].to_owned();
    assert!(shown.contains("COMPONENT") && shown.contains(&format!(", 50 % {digest}")), "{shown}");
    process.signal("-TERM");
}
