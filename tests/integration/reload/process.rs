//! Reloads of whole processes: killed in the middle, asked by signals, over HTTP and over NATS, a thousand times.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use super::*;
use crate::cli::Desk;

/// A process that is killed when this is dropped.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) fn start(desk: &Desk, url: &str) -> Process {
        let mut command = desk.command(&["run", "--nats-url", url]);
        let log = fs::File::options().append(true).create(true).open(desk.folder().join("log")).expect("a log");
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("tidemill starts"))
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// What the system says about it: memory in use in KiB, and how many mappings it has.
    fn size(&self) -> (u64, usize) {
        let proc = Path::new("/proc").join(self.0.id().to_string());
        let status = fs::read_to_string(proc.join("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib = line.trim().trim_end_matches(" kB").parse().expect("a number");
        (kib, fs::read_to_string(proc.join("maps")).expect("its mappings").lines().count())
    }
}

/// Puts a file in place at one moment.
fn put(desk: &Desk, name: &str, content: &[u8]) {
    desk.write(&format!("{name}.new"), content);
    fs::rename(desk.folder().join(format!("{name}.new")), desk.folder().join(name)).expect("renamed");
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Sends a request without a body; the status and the body of the answer.
pub(crate) fn request(port: u16, line: &str, headers: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

pub(crate) async fn ready(port: u16) {
    eventually("the process is ready", || async {
        request(port, "GET /readyz", "").ok().filter(|(status, _)| *status == 200).map(drop)
    })
    .await;
}

fn desk(port: u16, component: &[u8]) -> Desk {
    let desk = Desk::with(&HANDLER.replace("'off'", &format!("'127.0.0.1:{port}'\nwatch = false")));
    put_plugin(&desk, component);
    desk
}

fn put_plugin(desk: &Desk, component: &[u8]) {
    fs::create_dir_all(desk.folder().join("plugins")).expect("made");
    put(desk, "plugins/h.wasm", component);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_in_the_middle_of_a_reload_loses_and_repeats_nothing() {
    let world = World::in_and_out().await;
    let port = free_port();
    let desk = desk(port, &version(&subject(0)));
    let mut sent = 0;
    for round in 1..=8_u64 {
        let process = Process::start(&desk, &world.server.url);
        ready(port).await;
        for _ in 0..300 {
            world.context.publish("in.x", sent.to_string().into()).await.expect("sent");
            sent += 1;
        }
        put_plugin(&desk, &version(&subject(usize::try_from(round).expect("small"))));
        process.signal("-HUP");
        // Somewhere between before it has begun and after it has ended.
        sleep(Duration::from_millis(round * round / 2)).await;
        drop(process);
    }
    let process = Process::start(&desk, &world.server.url);
    ready(port).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(outputs(&world, sent).await.len() as u64, sent);
    assert!(world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    publish(&world, "last").await;
    assert_eq!(outputs(&world, sent + 1).await["last"], subject(8));
    process.signal("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_are_asked_for_by_signal_over_http_and_over_nats() {
    let world = World::in_and_out().await;
    let port = free_port();
    let desk = desk(port, &version(&subject(0)));
    let _process = Process::start(&desk, &world.server.url);
    ready(port).await;
    let (status, body) = request(port, "POST /api/v1/reload", "").expect("an answer");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"swapped\":[]"), "{body}");
    put_plugin(&desk, &version(&subject(1)));
    let (status, body) = request(port, "POST /api/v1/reload", "").expect("an answer");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"swapped\":[\"h\"]"), "{body}");
    let (status, _) = request(port, "POST /api/v1/reload", "Origin: https://example.org\r\n").expect("an answer");
    assert_eq!(status, 403, "pages of others must not");
    put_plugin(&desk, b"garbage");
    let (status, body) = request(port, "POST /api/v1/reload", "").expect("an answer");
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("not a WebAssembly component"), "{body}");

    let tell = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--nats-url", world.server.url.as_str()]);
        desk.run(&all)
    };
    let refused = tell(&["reload"]);
    assert_eq!(refused.exit, 1, "{refused:?}");
    assert!(refused.stdout.contains("refused; it goes on with what it runs"), "{refused:?}");
    put_plugin(&desk, &version(&subject(2)));
    let told = tell(&["reload"]);
    assert_eq!((told.exit, told.stdout.contains("swapped h")), (0, true), "{told:?}");
    let back = tell(&["rollback", "h"]);
    assert_eq!((back.exit, back.stdout.contains("swapped h")), (0, true), "{back:?}");
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    let nobody = tell(&["reload", "--instance", "nobody"]);
    assert_eq!(nobody.exit, 1);
    assert!(nobody.stderr.contains("no instance \"nobody\" answers"), "{nobody:?}");
}

/// Code that is not used any more is unmapped, and nothing else piles up.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reloads_leave_no_growth() {
    let world = World::in_and_out().await;
    let port = free_port();
    let versions = [version(&subject(0)), version(&subject(1))];
    let desk = desk(port, &versions[0]);
    let process = Process::start(&desk, &world.server.url);
    ready(port).await;
    let mut sizes = Vec::new();
    for number in 1..=1_000 {
        put_plugin(&desk, &versions[number % 2]);
        let (status, body) = request(port, "POST /api/v1/reload", "").expect("an answer");
        assert_eq!((status, body.contains("\"swapped\":[\"h\"]")), (200, true), "{body}");
        publish(&world, &number.to_string()).await;
        if number % 500 == 0 {
            world.wait_until_settled("IN", "tidemill-h").await;
            sizes.push(process.size());
        }
    }
    let [(kib_before, maps_before), (kib_after, maps_after)] = sizes[..] else { panic!("{sizes:?}") };
    assert!(maps_after <= maps_before + 20, "mappings: {sizes:?}");
    assert!(kib_after <= kib_before + 8 * 1024, "KiB: {sizes:?}");
    assert_eq!(outputs(&world, 1_000).await.len(), 1_000);
}
