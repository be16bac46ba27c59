//! `tidemill new` and `tidemill build`, and `tidemill dev` where the source of a handler changes. What each language's
//! template comes to is tested by `cargo xtask templates`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidemill::broker::nats::server::executable;

use crate::cli::{Desk, end};
use crate::support::DEADLINE;

/// Where the packages from npm are, so that projects in it can be built.
fn npm() -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/js");
    assert!(folder.join("node_modules").is_dir(), "{} has no node_modules: run cargo xtask setup", folder.display());
    folder.canonicalize().expect("a folder")
}

#[test]
fn what_new_cannot_write_is_told_with_a_remedy() {
    let desk = Desk::with("");
    let new = |name: &str, language: &str| desk.run(&["new", name, "--lang", language]);
    new("a", "javascrpt").fails(2, &["no kit for the language \"javascrpt\"", "did you mean js?", "python, rust, ts"]);
    new("a", "cobol").fails(2, &["no kit for the language \"cobol\"; there are"]);
    new("Order_total", "js").fails(2, &["\"Order_total\" is no name", "tidemill new order-total --lang js"]);
    new("42", "js").fails(2, &["\"42\" is no name"]);
    desk.write("taken/file", "");
    new("taken", "js").fails(1, &["taken is there already and not empty"]);
    assert_eq!(fs::read_dir(desk.folder().join("taken")).expect("listed").count(), 1);
    desk.run(&["new", "a"]).fails(2, &["--lang"]);
}

#[test]
fn new_writes_a_project_and_says_what_comes_next() {
    let desk = Desk::with("");
    let run = desk.run(&["new", "handlers/order-total", "--lang", "javascript", "--output", "json"]);
    let report = run.succeeds().json();
    assert_eq!((&report["name"], &report["language"]), (&Value::from("order-total"), &Value::from("js")));
    assert_eq!(report["next"][0], "cd handlers/order-total");
    let files = report["files"].as_array().expect("files");
    for file in files {
        let path = desk.folder().join("handlers/order-total").join(file.as_str().expect("a path"));
        assert!(path.is_file(), "{}", path.display());
    }
    for file in ["handler.js", "tidemill.toml", ".gitignore", "tidemill/wit/handler.wit"] {
        assert!(files.contains(&Value::from(file)), "{file} is not in {files:?}");
    }
    // The name is filled in, and the manifest is one.
    let run = desk.run(&["check", "--manifest", "handlers/order-total/tidemill.toml"]);
    run.fails(1, &["plugins/order-total.wasm"]);
}

#[test]
fn what_cannot_be_built_is_told_with_a_remedy() {
    let desk = Desk::with("");
    desk.run(&["build"]).fails(1, &[". holds no project", "Cargo.toml, package.json", "tidemill new"]);
    desk.run(&["new", "mail", "--lang", "js"]).succeeds();
    desk.run(&["build", "mail"]).fails(1, &["not installed", "npm install"]);
    let bare = |project: &str| {
        let mut command = desk.command(&["build", project]);
        command.env("PATH", "").env_remove("CARGO").output().expect("tidemill starts")
    };
    for (marker, said) in [
        ("Cargo.toml", "cargo is not on the search path: install Rust"),
        ("package.json", "npm is not on the search path: install Node.js"),
        ("pyproject.toml", "componentize-py is not on the search path: pip install componentize-py=="),
        ("go.mod", "go is not on the search path: install Go"),
        ("build.zig", "zig is not on the search path: install Zig"),
        ("Makefile", "make is not on the search path: install make"),
    ] {
        desk.write(&format!("of-{marker}/{marker}"), "");
        let output = bare(&format!("of-{marker}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(said), "{marker}: {stderr}");
    }
}

#[test]
fn a_build_that_fails_leaves_the_component_that_is_there() {
    let desk = Desk::with("");
    desk.write("plugins/p.wasm", "earlier");
    let component = || fs::read(desk.folder().join("plugins/p.wasm")).expect("read");
    let build = |script: &str| {
        let package = format!(r#"{{"name": "p", "scripts": {{"build": "{script}"}}}}"#);
        desk.write("p/package.json", package);
        desk.run(&["build", "p"])
    };
    build("echo the tool says this >&2; exit 3").fails(1, &["the tool says this", "npm failed (exit status: 3)"]);
    build("true").fails(1, &["npm succeeded, but there is no .wasm file in build/ or dist/"]);
    build("mkdir -p build; echo no wasm > build/p.wasm")
        .fails(1, &["build/p.wasm is another kind of file, not a WebAssembly"]);
    assert_eq!(component(), b"earlier");
}

/// `tidemill dev`, of which the log is read line by line.
struct Dev {
    child: Child,
    url: String,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    fn start(desk: &Desk, project: &Path) -> Dev {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let mut command = desk.command(&["dev", "--port", &port.to_string()]);
        command.env("TIDEMILL_NATS_SERVER", executable(None)).current_dir(project);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tidemill starts");
        let (tell, lines) = channel();
        // The log is on the one, what the tools say on the other.
        pass_on(child.stdout.take().expect("piped"), tell.clone());
        pass_on(child.stderr.take().expect("piped"), tell);
        Dev { child, url: format!("nats://127.0.0.1:{port}"), lines, seen: Vec::new() }
    }

    /// Whether a line with this text is said in time.
    fn says_within(&mut self, text: &str, time: Duration) -> bool {
        let end = Instant::now() + time;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(text)) {
                return true;
            }
        }
        false
    }

    /// Waits for a line with this text.
    #[track_caller]
    fn says(&mut self, text: &str) {
        assert!(self.says_within(text, DEADLINE), "{text:?} was not said:\n{}", self.seen.join("\n"));
    }

    /// Publishes orders until the handler says this of one.
    #[track_caller]
    fn says_of_an_order(&mut self, desk: &Desk, text: &str) {
        let order = r#"{"order_id": "o-1", "quantity": 3, "unit_price_cents": 450}"#;
        let end = Instant::now() + DEADLINE;
        while !self.says_within(text, Duration::from_secs(1)) {
            assert!(Instant::now() < end, "{text:?} was not said:\n{}", self.seen.join("\n"));
            desk.run(&["publish", "--nats-url", &self.url, "order.placed", order]).succeeds();
        }
    }
}

fn pass_on(from: impl Read + Send + 'static, tell: Sender<String>) {
    let lines = BufReader::new(from).lines();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
}

impl Drop for Dev {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[test]
fn dev_builds_what_changes_and_runs_it_and_goes_on_where_that_fails() {
    let desk = Desk::with("");
    let home = tempfile::tempdir_in(npm()).expect("a folder beside the packages");
    let project = home.path().join("order-total");
    desk.run(&["new", &project.to_string_lossy(), "--lang", "js"]).succeeds();
    let manifest = fs::read_to_string(project.join("tidemill.toml")).expect("read");
    let quiet = manifest.replace("[runtime]", "[runtime]\nlisten = 'off'");
    fs::write(project.join("tidemill.toml"), quiet).expect("written");
    let handler = project.join("handler.js");
    let source = fs::read_to_string(&handler).expect("read");

    let mut dev = Dev::start(&desk, &project);
    dev.says("built plugins/order-total.wasm");
    dev.says("ready handlers=1");
    fs::write(&handler, format!("{source}\nthis is no JavaScript\n")).expect("written");
    dev.says("the version of order-total that is there goes on");
    // What the tool says comes by another way, perhaps later.
    if !dev.seen.iter().any(|line| line.contains("handler.js:")) {
        dev.says("handler.js:");
    }
    dev.says_of_an_order(&desk, "order o-1 comes to 1350 cents");
    fs::write(&handler, source.replace("comes to", "amounts to")).expect("written");
    dev.says_of_an_order(&desk, "order o-1 amounts to 1350 cents");
    let server = dev.url.trim_start_matches("nats://").to_owned();
    drop(dev);
    assert!(TcpStream::connect(&server).is_err(), "the server at {server} still runs");
}
