//! Requests of guests: what is granted is sent, everything else is refused and said, and nothing goes on afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tidemill::invoker::wasm::WasmHandler;
use tidemill::invoker::{Invoker, Report};
use tidemill_policy::manifest::{CircuitBreaker, Handler, Isolation, SecretRef, Trigger};
use tidemill_policy::outcome::{HandlerError, Outcome};
use tidemill_policy::reach::{HttpGrant, KeyGrant};

use crate::server::{Manner, Server};
use crate::setup::{ENGINE, entry, event, guest, output, run};

fn caller(grants: &[&str], change: impl FnOnce(&mut Handler)) -> WasmHandler {
    let mut entry = entry();
    entry.name = "caller".into();
    entry.allow.http = grants.iter().map(|grant| HttpGrant::parse(grant).expect("a grant")).collect();
    // The guest imports it too.
    entry.allow.keyvalue = vec![KeyGrant::parse("unused").expect("a grant")];
    change(&mut entry);
    WasmHandler::load(&ENGINE, &guest("caller"), &entry, BTreeMap::new()).expect("the guest can be loaded")
}

fn rejected(report: &Report) -> (&str, &str) {
    match &report.outcome {
        Outcome::Rejected(error) => told(error),
        other => panic!("not rejected: {other:?}"),
    }
}

fn retried(report: &Report) -> (&str, &str) {
    match &report.outcome {
        Outcome::Retry { error, .. } => told(error),
        other => panic!("not to be retried: {other:?}"),
    }
}

fn told(error: &HandlerError) -> (&str, &str) {
    (&error.message, error.detail.as_deref().unwrap_or_default())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn what_is_granted_is_sent() {
    let server = Server::start(Manner::Echoes).await;
    let handler = caller(&[&server.url("")], |_| ());
    let said = output(&run(&handler, &format!("get {}", server.url("/a/b?c=d"))).await);
    assert!(said.starts_with("200 GET /a/b?c=d HTTP/1.1\r\n"), "{said}");
    let said = said.to_lowercase();
    assert!(said.contains("x-guest: caller") && said.contains(&format!("host: {}", server.address)), "{said}");
    let said = output(&run(&handler, &format!("post {}", server.url("/"))).await);
    assert!(said.starts_with("200 POST / HTTP/1.1\r\n") && said.ends_with(&"x".repeat(10_000)), "{said}");
    let handler = caller(&[&format!("http://localhost:{}", server.address.port())], |_| ());
    let said = output(&run(&handler, &format!("get http://LOCALHOST:{}/", server.address.port())).await);
    assert!(said.starts_with("200 GET / HTTP/1.1\r\n"), "{said}");
}

#[tokio::test]
async fn what_is_not_granted_is_not_sent_and_the_history_says_so() {
    let server = Server::start(Manner::Answers(OK.into())).await;
    let (origin, port) = (server.url(""), server.address.port());
    let handler = caller(&["https://api.example", &format!("GET {origin}/v1/")], |_| ());
    let localhost = format!("http://localhost:{port}");
    for (command, expected) in [
        (format!("get {localhost}/x"), format!("GET {localhost}/x is not granted; add \"{localhost}\" to allow.http")),
        ("get http://127.0.0.1:1/".into(), "add \"http://127.0.0.1:1\" to allow.http of the handler".into()),
        ("get http://169.254.169.254/latest".into(), "GET http://169.254.169.254/latest is not granted".into()),
        ("get http://[::1]/".into(), "GET http://[::1]/ is not granted".into()),
        ("get http://evil.example/".into(), "GET http://evil.example/ is not granted".into()),
        (format!("get {origin}/v2/"), format!("is not granted; allow.http grants \"GET {origin}/v1/\" of that origin")),
        (format!("put {origin}/v1/"), format!("is not granted; allow.http grants \"GET {origin}/v1/\" of that origin")),
        (format!("get {origin}/v1/%2e%2e/v2"), "a path must not have \".\" or \"..\"".into()),
        (format!("connect {origin}/v1/"), format!("CONNECT {origin} is refused")),
        ("get http://2130706433/".into(), "the host must be a name".into()),
    ] {
        let report = run(&handler, &command).await;
        let (message, detail) = rejected(&report);
        assert!(message.starts_with("no response: "), "{command}: {message}");
        assert!(detail.starts_with("refused or failed outside of the handler:\n  "), "{command}: {detail}");
        assert!(detail.contains(&expected), "{command}: {detail}");
    }
    assert_eq!(server.seen().connections, 0);
    assert_eq!(output(&run(&handler, &format!("get {origin}/v1/")).await), "200 hi");
}

#[tokio::test]
async fn redirects_lead_nowhere_that_is_not_granted() {
    let inside = Server::start(Manner::Answers(OK.into())).await;
    for target in
        [inside.url("/"), format!("http://localhost:{}/", inside.address.port()), "http://169.254.169.254/".into()]
    {
        let moved = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 4\r\n\r\ngone");
        let server = Server::start(Manner::Answers(moved)).await;
        let handler = caller(&[&server.url("")], |_| ());
        assert_eq!(output(&run(&handler, &format!("get {}", server.url("/"))).await), "302 gone");
        let report = run(&handler, &format!("follow {}", server.url("/"))).await;
        let (_, detail) = rejected(&report);
        assert!(detail.contains(&format!("GET {target} is not granted")), "{detail}");
    }
    assert_eq!(inside.seen().connections, 0);
}

#[tokio::test]
async fn responses_are_bounded_in_size() {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    let until_closed = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1001));
    for manner in [Manner::Answers(long), Manner::Answers(until_closed), Manner::SendsBody] {
        let server = Server::start(manner).await;
        let handler = caller(&[&server.url("")], |entry| entry.http.response_bytes = 1000);
        let report = run(&handler, &format!("get {}", server.url("/"))).await;
        let (message, detail) = retried(&report);
        assert!(message.contains("HttpResponseBodySize") || message.contains("body size exceeds limit"), "{message}");
        assert!(detail.contains("the response has more than 1000B (`http.response`)"), "{detail}");
        server.wait("the connection is closed", |seen| seen.ended == 1).await;
    }
    let server = Server::start(Manner::SendsHeaders).await;
    let report = run(&caller(&[&server.url("")], |_| ()), &format!("get {}", server.url("/"))).await;
    assert!(retried(&report).1.contains("bytes of them"), "{report:?}");
    server.wait("the connection is closed", |seen| seen.ended == 1).await;
    let exact = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    let server = Server::start(Manner::Answers(exact)).await;
    let handler = caller(&[&server.url("")], |entry| entry.http.response_bytes = 1000);
    assert_eq!(output(&run(&handler, &format!("get {}", server.url("/"))).await).len(), 1004);
}

#[tokio::test]
async fn requests_are_bounded_in_time() {
    for manner in [
        Manner::IsSilent,
        Manner::Drips("HTTP/1.1 200 OK\r\nX-Slow: "),
        Manner::Drips("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
    ] {
        let server = Server::start(manner).await;
        let handler = caller(&[&server.url("")], |entry| entry.http.request_timeout = Duration::from_millis(200));
        let started = Instant::now();
        let report = run(&handler, &format!("get {}", server.url("/"))).await;
        assert!(started.elapsed() >= Duration::from_millis(200));
        let (message, detail) = retried(&report);
        assert!(message.contains("HttpResponseTimeout") || message.contains("timeout"), "{message}");
        assert!(detail.contains("no whole response within 200ms (`http.request_timeout`)"), "{detail}");
        server.wait("the connection is closed", |seen| seen.ended == 1).await;
    }
}

#[tokio::test]
async fn the_deadline_of_an_event_ends_its_requests() {
    for manner in [Manner::IsSilent, Manner::Drips("HTTP/1.1 200 OK\r\n\r\n")] {
        // Between two drops it may as well be computing.
        let waits = matches!(manner, Manner::IsSilent);
        let server = Server::start(manner).await;
        let handler = caller(&[&server.url("")], |entry| entry.limits.budget.timeout = Duration::from_secs(2));
        let report = run(&handler, &format!("get {}", server.url("/"))).await;
        let Outcome::TimedOut(interruption) = &report.outcome else { panic!("{report:?}") };
        assert!(!waits || interruption.message.contains("in a host call"), "{interruption:?}");
        server.wait("the connection is closed", |seen| seen.ended == 1).await;
    }
}

#[tokio::test]
async fn an_invocation_that_is_dropped_leaves_nothing_behind() {
    let server = Server::start(Manner::IsSilent).await;
    let handler = caller(&[&server.url("")], |_| ());
    let mut call = Box::pin(handler.invoke(event(&format!("get {}", server.url("/"))).into()));
    assert!(call.as_mut().now_or_never().is_none());
    tokio::select! {
        _ = &mut call => panic!("it has ended"),
        () = server.wait("the request has come", |seen| seen.requests.len() == 1) => {}
    }
    drop(call);
    server.wait("the connection is closed", |seen| seen.ended == 1).await;
}

#[tokio::test]
async fn a_request_that_is_forgotten_ends_with_its_event() {
    let server = Server::start(Manner::IsSilent).await;
    let handler = caller(&[&server.url("")], |entry| entry.isolation = Isolation::Handler);
    for calls in 1..=3 {
        let report = run(&handler, &format!("leak {}", server.url("/"))).await;
        assert!(matches!(report.outcome, Outcome::Completed(_)), "{report:?}");
        server
            .wait("the connections are closed", |seen| seen.ended == seen.connections && seen.connections <= calls)
            .await;
    }
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_refused() {
    let server = Server::start(Manner::IsSilent).await;
    let handler = caller(&[&server.url("")], |_| ());
    let report = run(&handler, &format!("many 1000 984 {}", server.url("/"))).await;
    let (message, detail) = rejected(&report);
    assert_eq!(message, "984 of 1000 were refused");
    assert!(detail.contains("is refused: 16 requests are under way already (`http.in_flight`)"), "{detail}");
    assert!(detail.contains("… and 983 more"), "{detail}");
    server.wait("the connections are closed", |seen| seen.ended == seen.connections).await;
    assert!(server.seen().connections <= 16);
}

#[tokio::test]
async fn an_origin_that_fails_is_left_alone() {
    let server = Server::start(Manner::Answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into())).await;
    let handler = caller(&[&server.url("")], |entry| {
        let (trigger, long) = (Trigger::InARow { failures: 2 }, Duration::from_mins(10));
        entry.http.circuit_breaker = Some(CircuitBreaker { trigger, open_for: long, open_max: long, successes: 1 });
    });
    let get = format!("get {}", server.url("/"));
    for _ in 0..2 {
        assert_eq!(output(&run(&handler, &get).await), "503 ");
    }
    let report = run(&handler, &get).await;
    let (message, detail) = retried(&report);
    assert!(message.contains("DestinationUnavailable"), "{message}");
    assert!(
        detail.contains("the circuit breaker of the origin is open, since 2 requests in a row have failed"),
        "{detail}"
    );
    assert_eq!(server.seen().connections, 2);
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let server = Server::start(Manner::SpeaksFirst("who is there?")).await;
    let tls = format!("https://{}", server.address);
    let handler =
        caller(&[&format!("http://127.0.0.1:{port}"), &tls, "http://nowhere.invalid", &server.url("")], |_| ());
    for (url, expected) in [
        (format!("http://127.0.0.1:{port}/"), "no connection: "),
        (format!("{tls}/"), "no TLS: "),
        ("http://nowhere.invalid/".to_owned(), "the name nowhere.invalid cannot be resolved: "),
        (server.url("/"), "no response: "),
    ] {
        let report = run(&handler, &format!("get {url}")).await;
        let detail = retried(&report).1;
        assert!(detail.contains(&format!("GET {url}: {expected}")), "{detail}");
    }
}

#[test]
fn without_a_grant_nothing_is_linked() {
    let problem = WasmHandler::load(&ENGINE, &guest("caller"), &entry(), BTreeMap::new()).err().unwrap().to_string();
    assert!(problem.contains("imports what it is not offered: "), "{problem}");
    for interface in ["outgoing-handler", "types"] {
        let expected = format!(
            "`wasi:http/{interface}@0.2.12` (not granted: add allow.http = [\"https://api.example\"] to the handler, or build \
             without it (componentize-js: `-d http fetch-event`))"
        );
        assert!(problem.contains(&expected), "{problem}");
    }
    let expected =
        "`wasi:keyvalue/store@0.2.0-draft2` (not granted: add allow.keyvalue = [\"templates\"] to the handler)";
    assert!(problem.contains(expected), "{problem}");
}

#[tokio::test]
async fn a_rehearsal_reaches_nothing() {
    let server = Server::start(Manner::Answers(OK.into())).await;
    let handler = caller(&[&server.url("")], |_| ());
    let report = handler.replay(event(&format!("get {}", server.url("/"))), [0; 32], 0).await;
    let (_, detail) = rejected(&report);
    assert!(detail.contains("this is a rehearsal, from which nothing reaches outside"), "{detail}");
    let report = handler.replay(event("read unused a"), [0; 32], 0).await;
    assert!(retried(&report).1.contains("buckets are not used: this is a rehearsal"), "{report:?}");
    assert_eq!(server.seen().connections, 0);
}

/// A guest with a secret, which it tells when it is asked to.
pub(crate) fn indiscreet() -> WasmHandler {
    let mut entry = entry();
    entry.allow.http = vec![HttpGrant::parse("http://localhost").unwrap()];
    entry.allow.keyvalue = vec![KeyGrant::parse("unused").unwrap()];
    entry.secrets.insert("api_key".into(), SecretRef::Env("API_KEY".into()));
    let settings = BTreeMap::from([("api_key".to_owned(), "sk-live-0123456789".to_owned())]);
    WasmHandler::load(&ENGINE, &guest("caller"), &entry, settings).unwrap()
}

#[tokio::test]
async fn secrets_are_kept_out_of_errors() {
    let handler = indiscreet();
    let report = run(&handler, "secret api_key").await;
    assert_eq!(rejected(&report), ("bad key [secret api_key]", "sent [secret api_key] and more"));
    let report = run(&handler, "get http://sk-live-0123456789.example/sk-live-0123456789").await;
    let (message, detail) = rejected(&report);
    assert!(detail.contains("[secret api_key]") && !format!("{message}{detail}").contains("sk-live"), "{detail}");
}
