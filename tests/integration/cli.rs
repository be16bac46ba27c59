//! The command line as users meet it: what they see, and with which exit code, after each mistake.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::DEADLINE;

/// The folder of the built guests.
pub(crate) fn guests() -> PathBuf {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let folder = std::env::var_os("TIDEMILL_GUESTS").map_or(usual, PathBuf::from);
    assert!(folder.is_dir(), "there are no guests in {}: run cargo xtask guests", folder.display());
    folder.canonicalize().expect("a folder")
}

/// A folder with a manifest, and `tidemill` run in it without anything from the outside.
pub(crate) struct Desk(TempDir);

/// What a run of `tidemill` came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    fn empty() -> Desk {
        Desk(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn with(manifest: &str) -> Desk {
        let desk = Desk::empty();
        desk.write("tidemill.toml", manifest);
        desk
    }

    /// A manifest whose plugins are the guests, with `handlers`.
    pub(crate) fn with_guests(handlers: &str) -> Desk {
        Desk::with(&format!("[runtime]\nlisten = 'off'\nplugins = '{}'\n{handlers}", guests().display()))
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(arguments).current_dir(self.0.path());
        for name in ["TIDEMILL_NATS_URL", "TIDEMILL_LOG", "TIDEMILL_NATS_SERVER", "NO_COLOR", "COLUMNS"] {
            command.env_remove(name);
        }
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().expect("tidemill starts"))
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Run {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("tidemill starts");
        child.stdin.take().expect("piped").write_all(input).expect("written");
        Run::of(child.wait_with_output().expect("tidemill ends"))
    }
}

impl Run {
    fn of(output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let exit = output.status.code().expect("no signal");
        Run { exit, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Asserts that it failed as expected, and that standard error says all of `said`.
    #[track_caller]
    pub(crate) fn fails(&self, exit: i32, said: &[&str]) -> &Run {
        assert_eq!(self.exit, exit, "{}{}", self.stdout, self.stderr);
        for text in said {
            assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Run {
        assert_eq!(self.exit, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in:\n{}", self.stdout))
    }
}

const UNRULY: &str = "[handler.unruly]\nsubject = \"test.unruly\"\nallow = { publish = [\"out.>\"] }\n\
                      retry = { max_attempts = 3, jitter = 0 }\n";

#[test]
fn mistakes_in_the_manifest_are_shown_with_their_place_and_remedy() {
    #[track_caller]
    fn check(handler: &str, said: &[&str]) {
        let desk = Desk::with(&format!("[handler.mail]\nsubject = \"mail.>\"\n{handler}\n"));
        desk.run(&["check"]).fails(2, said).fails(2, &["tidemill.toml:3:"]);
    }
    check("concurency = 4", &["concurency", "^^^^", "did you mean \"concurrency\"?"]);
    check("limits = { timeout = 2 }", &["timeout", "did you mean \"2s\"?"]);
    check("limits = { memory = \"64\" }", &["memory", "did you mean \"64MiB\"?"]);
    check("policy = \"patient\"", &["patient"]);
}

#[test]
fn all_mistakes_are_told_at_once_also_those_in_drop_ins() {
    let desk = Desk::with("[handler.mail]\nsubject = \"mail.>\"\nmod = \"queue\"\nstreem = \"S\"\n");
    desk.write("plugins/other.toml", "subjec = \"x\"\n");
    let run = desk.run(&["check"]);
    run.fails(2, &["tidemill.toml:3:", "tidemill.toml:4:", "plugins/other.toml:1:", "did you mean \"subject\"?"]);
    let json = desk.run(&["check", "--output", "json"]);
    assert_eq!((json.exit, json.stderr.as_str()), (2, ""));
    assert!(json.json()["error"]["problems"].as_array().is_some_and(|list| list.len() >= 3), "{}", json.stdout);

    // Drop-ins are looked for where the manifest says, also if the rest of it is wrong.
    let desk = Desk::with("[runtime]\nplugins = \"built\"\n[handler.mail]\nsubject = \"mail.>\"\nmod = \"queue\"\n");
    desk.write("plugins/other.toml", "subjec = \"x\"\n");
    let run = desk.run(&["check"]);
    run.fails(2, &["tidemill.toml:5:"]);
    assert!(!run.stderr.contains("other.toml"), "{}", run.stderr);
}

#[test]
fn a_missing_manifest_is_named_with_the_way_to_start() {
    let desk = Desk::empty();
    for command in [&["check"] as &[&str], &["run"], &["dev"], &["explain", "x"], &["invoke", "x", "--event", "-"]] {
        desk.run(command).fails(2, &["there is no manifest at tidemill.toml", "--manifest", "[handler.hello]"]);
    }
    desk.run(&["check", "-m", "other.toml"]).fails(2, &["there is no manifest at other.toml"]);
    Desk::with("").run(&["check"]).fails(2, &["tidemill.toml has no handlers", "[handler.NAME]"]);
}

#[test]
fn components_that_cannot_run_are_all_named() {
    let desk = Desk::with(
        "[handler.missing]\nsubject = \"a\"\n[handler.text]\nsubject = \"b\"\n\
         [handler.corrupt]\nsubject = \"c\"\n[handler.plain]\nsubject = \"d\"\nsecrets = { key = \"env:NOT_SET_ANYWHERE\" }\n",
    );
    desk.write("plugins/text.wasm", "not wasm at all");
    desk.write("plugins/corrupt.wasm", b"\0asm\x0d\0\x01\0\xff\xff\xff");
    desk.write("plugins/plain.wasm", b"\0asm\x01\0\0\0");
    let said = [
        "handler.missing: plugins/missing.wasm: no such file",
        "handler.text: plugins/text.wasm: is",
        "not a WebAssembly component",
        "handler.corrupt: plugins/corrupt.wasm: is a truncated or corrupt",
        "handler.plain: plugins/plain.wasm: is a WebAssembly module without a component type",
        "secrets.key: secret env:NOT_SET_ANYWHERE: the environment variable is not set",
    ];
    desk.run(&["check"]).fails(1, &said);
    desk.run(&["run", "--nats-url", "nats://127.0.0.1:1"]).fails(1, &said);
    desk.run(&["dev"]).fails(1, &said);
    let json = desk.run(&["check", "--output", "json"]);
    assert_eq!((json.exit, json.json()["ok"].clone()), (1, Value::Bool(false)));
    assert_eq!(json.json()["faults"].as_array().map(Vec::len), Some(5), "{}", json.stdout);
    desk.run(&["inspect", "plugins/text.wasm"]).fails(1, &["plugins/text.wasm", "not a WebAssembly component"]);
    desk.run(&["inspect", "plugins/nothing.wasm"]).fails(1, &["cannot read plugins/nothing.wasm"]);
}

#[test]
fn arguments_are_checked_before_anything_is_done() {
    #[track_caller]
    fn check(arguments: &[&str], said: &[&str]) {
        Desk::with("[handler.mail]\nsubject = \"mail.>\"\n").run(arguments).fails(2, said);
    }
    check(&["check", "--output", "yaml"], &["--output", "text, json"]);
    check(&["chekc"], &["chekc"]);
    check(&["explain", "mial"], &["no handler \"mial\"", "did you mean \"mail\"?"]);
    check(&["invoke", "nothing", "--event", "-"], &["no handler \"nothing\"", "its handlers are mail"]);
    check(&["invoke", "mail", "--event", "-"], &["--subject"]);
    check(&["invoke", "mail", "--event", "-", "--attempt", "0"], &["--attempt"]);
    check(&["invoke", "mail", "--event", "-", "--seed", "00"], &["64"]);
    check(&["invoke", "mail", "--event", "-", "--clock", "noon"], &["2026-01-31T12:00:00Z"]);
    check(&["invoke", "mail", "--event", "gone.json", "--subject", "mail.x"], &["cannot read gone.json"]);
    check(&["run"], &["names no NATS server", "tidemill dev", "--nats-url"]);
    check(&["run", "--nats-url", "http://127.0.0.1"], &["http://127.0.0.1", "nats://HOST:4222"]);
    check(&["dev", "--data", "d", "--nats-url", "nats://127.0.0.1:1"], &["--data", "leave one"]);
    check(&["publish", "mail.x"], &["PAYLOAD"]);
    check(&["publish", "mail.*", "x"], &["wildcards are not allowed"]);
    check(&["publish", "mail.x", "y"], &["no NATS server is named", "--nats-url"]);
    check(&["publish", "mail.x", "y", "--header", "no-value"], &["NAME=VALUE"]);
}

#[test]
fn a_filter_that_cannot_be_read_is_an_error() {
    let desk = Desk::with("[handler.mail]\nsubject = \"mail.>\"\n");
    let output = desk.command(&["check"]).env("TIDEMILL_LOG", "tidemill=loud").output().expect("tidemill starts");
    Run::of(output).fails(2, &["TIDEMILL_LOG", "tidemill=loud"]);
}

#[test]
fn an_unreachable_server_is_named() {
    let run = Desk::empty().run(&["publish", "a.b", "x", "--nats-url", "nats://127.0.0.1:1"]);
    run.fails(1, &["cannot connect to NATS at nats://127.0.0.1:1", "is the server running"]);
}

#[test]
fn a_missing_nats_server_is_named_with_the_ways_to_get_one() {
    let desk = Desk::with_guests(UNRULY);
    let run = desk.run(&["dev", "--nats-server", "/nowhere/nats-server"]);
    run.fails(1, &["/nowhere/nats-server", "install it", "--nats-url"]);
}

#[test]
fn the_schema_and_the_completions_are_what_they_should_be() {
    let desk = Desk::empty();
    let schema = desk.run(&["schema"]).succeeds().json();
    assert!(schema["properties"]["handler"].is_object(), "{schema}");
    assert!(desk.run(&["schema", "--markdown"]).succeeds().stdout.contains('|'));
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.run(&["completions", shell]).succeeds().stdout.contains("tidemill"), "{shell}");
    }
    desk.run(&["completions", "cmd"]).fails(2, &["bash"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let desk = Desk::empty();
    let mut child = desk.command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    Run::of(child.wait_with_output().expect("ends")).fails(0, &[]);
}

#[test]
fn explain_shows_the_whole_policy() {
    let desk = Desk::with(
        "runtime.memory = \"512MiB\"\n[handler.mail]\nsubject = \"mail.send\"\nstream = \"MAIL\"\nsecrets = { key = \"env:MAIL_KEY\" }\n\
         config = { from = \"a@example.org\" }\nallow = { publish = [\"mail.>\"] }\n\
         retry = { max_attempts = 4, initial = \"1s\", max = \"2s\", jitter = 0.5, on = [\"reject\"] }\n\
         limits = { timeout = \"2s\" }\ndedup = { key = \"header:X-Order\", claim = true }\nack = \"confirmed\"\n\
         max_age = \"1h\"\ncircuit_breaker = { ratio = 0.5, open_for = \"1m\" }\n\
         rate_limit = { rate = \"100/min\", across = \"instances\" }\ndead_letter.on = [\"trap\", \"fuel\"]\n",
    );
    let shown = desk.run(&["explain", "mail"]).succeeds().stdout.clone();
    let expected = "\
handler       mail
component     plugins/mail.wasm
subject       mail.send
stream        MAIL, which must exist
mode          queue: each event is handled by one instance, 16 at once in each process
              WebAssembly instances are replaced after 1000 events
consumers     tidemill-mail on MAIL
              tidemill-mail-retry on TIDEMILL_RETRY
format        auto
dedup         one event for each header:X-Order, remembered for 1d, claimed before it is run
acks          confirmed by the server; an event is taken from an instance that is silent for 30s
limits        2s of time, 500000000 of fuel, 64MiB of memory for each attempt
              payload up to 1MiB; up to 64 outputs, 1MiB together
memory        256 MiB are kept for it, of the 512 MiB that all handlers have in each process (runtime.memory)
              up to 1024 MiB while it is free; an attempt that asks for more than there is fails with memory
retry         4 attempts, exponential: from 1s by 2 to 2s, 50 % jitter
              all wait in the retry stream
              also for reject
              not once it is older than 1h
breaker       after 50 % failures within 30s, of at least 20 attempts in one instance, all take no events for 1m, then try one at a time
              closes when one has succeeded; opens for longer each time one fails, up to 10m
outage brake  after 18 of 20 attempts that end in retry or timeout, events wait and one is tried at a time
rate limit    100/min attempts, 1 at once, over all instances
in flight     messages of up to 256 MiB in the whole process, where the server's max_payload is 1MiB
              2.0 MiB of it for this handler alone, 253 MiB for all; its outputs come on top, up to 16 MiB
dead letters  tidemill.deadletter.mail, kept for 30d
              in TIDEMILL_DEADLETTER, unless another stream stores the subject
              at once for trap, fuel
config        from = \"a@example.org\"
secrets       key from env:MAIL_KEY
may publish   mail.>
warning       it may publish on \"mail.>\" what it handles itself (\"mail.send\"): events can go round

attempt   after        with jitter            starts at the latest
1                                             at once
2         1 s          500 ms to 1.5 s        3.5 s
3-4       2 s          1 s to 3 s             13.5 s

An event that never succeeds is a dead letter after at most 15.5 s: all attempts use up their time,
and all delays are the longest. Delays that the handler asks for itself (up to an hour each) come on top.
";
    assert_eq!(shown, expected);
    let json = desk.run(&["explain", "mail", "--output", "json"]).succeeds().json();
    assert_eq!(json["schedule"]["worst_case_ms"], 15_500);
    assert_eq!(json["consumers"][0]["name"], "tidemill-mail");
    assert_eq!(json["dedup"], serde_json::json!({ "key": "header:X-Order", "window_ms": 86_400_000, "claim": true }));
}

#[test]
fn check_and_inspect_show_what_is_in_order() {
    let desk = Desk::with_guests(UNRULY);
    let shown = desk.run(&["check"]).succeeds().stdout.clone();
    assert!(shown.starts_with("ok     unruly  test.unruly -> ") && shown.contains("may publish out.>"), "{shown}");
    let unruly = guests().join("unruly.wasm");
    let report = desk.run(&["inspect", &unruly.display().to_string(), "--output", "json"]).succeeds().json();
    assert_eq!(report["can_run"], true);
    assert_eq!(report["handler"], "tidemill:handler/handler@0.1.0");
    assert_eq!(report["digest"].as_str().map(str::len), Some(64));
}

/// Invokes the guest that does what its payload says.
fn invoke(payload: &str, extra: &[&str]) -> Run {
    let desk = Desk::with_guests(UNRULY);
    let arguments = [&["invoke", "unruly", "--event", "-", "--output", "json"], extra].concat();
    desk.run_with_input(&arguments, payload.as_bytes())
}

#[test]
fn invoke_shows_outcome_decision_and_failure() {
    #[track_caller]
    fn check(payload: &str, extra: &[&str], exit: i32, outcome: &str, decision: &str, kind: Option<&str>) {
        let run = invoke(payload, extra);
        let json = run.json();
        assert_eq!(run.exit, exit, "{}{}", run.stdout, run.stderr);
        assert_eq!((json["outcome"].as_str(), json["decision"].as_str()), (Some(outcome), Some(decision)), "{json}");
        assert_eq!(json["failure"]["kind"].as_str(), kind, "{json}");
    }
    check("echo", &[], 0, "completed", "publish", None);
    check("retry", &[], 1, "retry", "retry", Some("retry"));
    check("retry", &["--attempt", "3"], 1, "retry", "dead-letter", Some("retry"));
    check("echo", &["--attempt", "4"], 1, "not run", "dead-letter", Some("attempts"));
    check("reject", &[], 1, "rejected", "dead-letter", Some("reject"));
    check("panic", &[], 1, "trapped", "retry", Some("trap"));
    check("output-to:not.granted", &[], 1, "completed", "dead-letter", Some("output"));
    let cloud_event = ["--header", "Content-Type=application/cloudevents+json"];
    check("{", &cloud_event, 1, "not run", "dead-letter", Some("undecodable"));
}

#[test]
fn invoke_makes_the_event_that_was_described() {
    let extra = ["--subject", "test.unruly", "--id", "e1", "--attempt", "2", "--header", "X-A=1"];
    let json = invoke("echo", &extra).json();
    assert_eq!(json["event"]["id"], "e1");
    assert_eq!(json["event"]["attempt"], 2);
    assert_eq!(json["outputs"][0]["payload"], "echo");
    assert!(json["outputs"][0]["headers"].to_string().contains("X-A"), "{json}");
    assert!(json["usage"]["fuel"].as_u64() > Some(0), "{json}");
    let other = invoke("echo", &["--subject", "elsewhere.x"]);
    assert!(other.stderr.contains("do not reach handler unruly"), "{}", other.stderr);
}

#[test]
fn the_same_seed_and_clock_give_the_same_run() {
    let first = invoke("clock", &["--clock", "2026-01-31T12:00:00Z"]).json();
    let seed = first["seed"].as_str().expect("a seed").to_owned();
    let again = invoke("clock", &["--clock", "1769860800000", "--seed", &seed]).json();
    assert_eq!(first["outputs"], again["outputs"]);
    assert_ne!(first["outputs"], invoke("clock", &["--clock", "1769860800000"]).json()["outputs"]);
}

#[test]
fn invoke_is_readable() {
    let desk = Desk::with_guests(UNRULY);
    let run = desk.run_with_input(&["invoke", "unruly", "--event", "-"], b"retry");
    assert_eq!(run.exit, 1, "{}", run.stderr);
    for line in ["outcome   retry\n", "decision  retry in 500 ms\n", "failure   retry (code 503): asked for\n"] {
        assert!(run.stdout.contains(line), "{line:?} is not in:\n{}", run.stdout);
    }
}

/// A running `tidemill dev` on a private server. It is interrupted when dropped, and so is its server.
struct Dev {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    url: String,
}

impl Dev {
    fn start(desk: &Desk) -> Dev {
        let mut command = desk.command(&["dev"]);
        if let Some(server) = std::env::var_os("TIDEMILL_NATS_SERVER") {
            command.env("TIDEMILL_NATS_SERVER", server);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("tidemill starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut dev = Dev { child, lines, url: String::new() };
        let line = dev.line_with("nats://");
        line.split_whitespace().last().expect("a URL").clone_into(&mut dev.url);
        dev.line_with("ready");
        dev
    }

    /// Reads until a line holds `text`. Where none does, the test ends with the process.
    fn line_with(&mut self, text: &str) -> String {
        let line = self.lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        line.unwrap_or_else(|| panic!("tidemill dev ended without a line with {text:?}")).expect("a line")
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the process is gone");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Interrupts a `tidemill dev` that still runs, so that it ends its server too, and waits until it has ended.
pub(crate) fn end(child: &mut Child) {
    let is_running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    if is_running(child) {
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    }
    let until = Instant::now() + DEADLINE;
    while is_running(child) && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn dev_shows_the_fate_of_each_event() {
    let desk = Desk::with_guests(UNRULY);
    let mut dev = Dev::start(&desk);
    let publish = |url: &str, subject: &str, payload: &str, extra: &[&str]| {
        let arguments = [&["publish", "--nats-url", url, subject, payload], extra].concat();
        desk.run(&arguments)
    };
    let url = dev.url.clone();
    let twice = publish(&url, "test.unruly", "fail-until:2", &["--id", "one", "--count", "2"]);
    assert_eq!(
        twice.succeeds().stdout,
        "stored in TEST as #1\nstored in TEST as #1 (duplicate of a message that was stored before)\n"
    );
    let retry = dev.line_with("#1");
    assert!(retry.contains("retry        attempt 1") && retry.contains("again in "), "{retry}");
    let handled = dev.line_with("#1");
    assert!(handled.contains("handled      attempt 2") && handled.contains("1 output"), "{handled}");
    publish(&url, "test.unruly", "reject", &[]).succeeds();
    let dead = dev.line_with("#2");
    assert!(dead.contains("DEAD LETTER  attempt 1") && dead.contains("reject: asked for"), "{dead}");

    publish(&url, "nobody.listens", "x", &[])
        .fails(1, &["no stream stores subject \"nobody.listens\"", "nats stream add"]);
    let large = vec![b'a'; 2 << 20];
    let large = desk.run_with_input(&["publish", "--nats-url", &url, "test.unruly", "--file", "-"], &large);
    large.fails(1, &["too large", "max_payload"]);

    dev.interrupt();
    dev.line_with("stopped");
    assert_eq!(dev.child.wait().expect("ended").code(), Some(0));
}

/// The quick start must not end in a dead letter.
#[test]
fn the_event_in_the_readme_is_handled() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).expect("a README");
    let line = readme.lines().find(|line| line.starts_with("tidemill publish order.placed '")).expect("an event");
    let desk =
        Desk::with_guests("[handler.order-pricing]\nsubject = \"order.placed\"\nallow.publish = [\"order.priced\"]\n");
    desk.write("event.json", line.split('\'').nth(1).expect("a payload"));
    let run = desk.run(&["invoke", "order-pricing", "--event", "event.json", "--output", "json"]).succeeds().json();
    assert_eq!(
        (run["outcome"].as_str(), run["outputs"].as_array().map(Vec::len)),
        (Some("completed"), Some(1)),
        "{run}"
    );
}

#[test]
fn the_manifest_reference_in_the_readme_is_the_table_of_keys() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).expect("a README");
    let reference = tidemill_policy::manifest::reference_markdown();
    assert!(readme.contains(reference.trim()), "put the output of `tidemill schema --markdown` into README.md");
}
