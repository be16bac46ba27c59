//! Properties: what is written is read back, and nothing makes the parser panic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use proptest::{collection, option, sample};
use tidemill_policy::budget::Budget;
use tidemill_policy::history::Kind;
use tidemill_policy::manifest::{
    AckMode, Across, Allow, Auth, Backoff, CircuitBreaker, DeadLetterPolicy, Dedup, DedupKey, Format, Handler,
    HttpPolicy, Isolation, KeyOrder, KeyValuePolicy, Latest, Limits, Manifest, Mode, Nats, OnFailure, OnMissing,
    OnStale, Order, OrderForm, OrderKey, OrderTime, Outputs, Parsed, Problems, RateLimit, Reload, RetryPolicy, Runtime,
    SchemaBy, SchemaPolicy, SecretRef, Source, Tls, Trigger, parse,
};
use tidemill_policy::reach::{HttpGrant, KeyGrant};

use crate::render::render;

fn parsed(text: &str) -> Result<Parsed, Problems> {
    parse(Source { path: "tidemill.toml", text }, &[], &|_| None)
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn path() -> impl Strategy<Value = PathBuf> {
    "[a-zA-Z0-9_/. ü$-]{1,20}".prop_map(PathBuf::from)
}

fn secret() -> impl Strategy<Value = SecretRef> {
    prop_oneof!["[A-Z_][A-Z0-9_]{0,8}".prop_map(SecretRef::Env), path().prop_map(SecretRef::File),]
}

fn auth() -> impl Strategy<Value = Auth> {
    prop_oneof![
        Just(Auth::None),
        secret().prop_map(Auth::Credentials),
        secret().prop_map(Auth::Nkey),
        secret().prop_map(Auth::Token),
        ("[a-z${}]{1,8}", secret()).prop_map(|(user, password)| Auth::User { user, password }),
    ]
}

fn tls() -> impl Strategy<Value = Tls> {
    (option::of(path()), option::of((path(), path()))).prop_map(|(ca, pair)| {
        let (cert, key) = pair.unzip();
        Tls { ca, cert, key }
    })
}

fn nats() -> impl Strategy<Value = Nats> {
    let url = "(nats://|tls://)?[a-z]{1,8}(\\.[a-z]{1,3})?:[1-9][0-9]{1,3}";
    (collection::vec(url, 0..3), auth(), option::of(tls()), "[a-z]{1,8}", 1..=5_u32)
        .prop_map(|(urls, auth, tls, prefix, replicas)| Nats { urls, auth, tls, prefix, replicas })
}

fn runtime() -> impl Strategy<Value = Runtime> {
    let listen = "(127\\.0\\.0\\.1|localhost|\\[::1\\]):[1-9][0-9]{1,3}";
    let in_flight = (1_u64 << 20)..=(1 << 40);
    // As much as the largest handler may have, or more.
    let memory = option::of((4_u64 << 30)..=(1 << 40));
    let versions = (any::<bool>(), millis(100..=3_600_000), path(), 1..=100_u32);
    let plugins = prop_oneof![path().prop_map(Ok), "[a-zA-Z0-9_-]{1,12}".prop_map(Err)];
    (plugins, option::of(listen), millis(0..=3_600_000), in_flight, memory, option::of(path()), versions).prop_map(
        |(plugins, listen, drain, in_flight, memory_bytes, cache, (watch, watch_poll, versions, keep_versions))| {
            let bucket = plugins.as_ref().err().cloned();
            Runtime {
                plugins: plugins.unwrap_or_else(|bucket| Runtime::copy_of(&versions, &bucket)),
                bucket,
                listen,
                drain,
                in_flight,
                memory_bytes,
                cache,
                watch,
                watch_poll,
                versions,
                keep_versions,
            }
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let budget =
        (millis(10..=3_600_000), 1..=i64::MAX as u64, (64 << 10)..=(4_u64 << 30), 0..=10_000_u32, 0..=(256_u64 << 20))
            .prop_map(|(timeout, fuel, memory_bytes, outputs, output_bytes)| Budget {
                timeout,
                fuel,
                memory_bytes,
                outputs,
                output_bytes,
            });
    (budget, 1..=(64_u64 << 20), 1..=1_000_000_000_u32).prop_map(|(budget, payload_bytes, reuse)| Limits {
        budget,
        payload_bytes,
        reuse,
    })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let month_ms = 30 * 86_400_000;
    (
        1..=1000_u32,
        sample::select(Backoff::ALL),
        (millis(0..=month_ms), millis(0..=month_ms)),
        1.0..1000.0_f64,
        0.0..1.0_f64,
    )
        .prop_map(|(max_attempts, backoff, (one, other), multiplier, jitter)| RetryPolicy {
            max_attempts,
            backoff,
            initial: one.min(other),
            max: one.max(other),
            multiplier,
            jitter,
            in_memory: one.min(Duration::from_mins(1)),
            on: Vec::new(),
        })
}

/// The keys of a handler that say which one it is. Subjects start with different letters for each of
/// their uses, so that they cannot collide.
#[derive(Debug, Clone)]
struct Identity {
    component: PathBuf,
    subjects: Vec<String>,
    stream: Option<String>,
    durable: Option<String>,
    dead_letters: String,
}

fn identity() -> impl Strategy<Value = Identity> {
    let subjects = collection::btree_set("s[a-z]{1,5}(\\.\\*\\.x|\\.>)?", 1..4).prop_map(|subjects| {
        let number = |(index, subject)| format!("s{index}.{subject}");
        subjects.into_iter().enumerate().map(number).collect()
    });
    (path(), subjects, option::of("[A-Z]{1,8}"), option::of("[a-z-]{1,8}"), "d[a-z]{1,5}(\\.x)?").prop_map(
        |(component, subjects, stream, durable, dead_letters)| Identity {
            component,
            subjects,
            stream,
            durable,
            dead_letters,
        },
    )
}

fn dedup() -> impl Strategy<Value = Dedup> {
    let key = prop_oneof![
        Just(DedupKey::Id),
        "[A-Z][a-z-]{0,8}".prop_map(|name| DedupKey::Header(format!("X-{name}"))),
        "(/[a-z~01]{0,5}){0,3}".prop_map(|pointer| DedupKey::Json(pointer.replace('~', "~0"))),
    ];
    (key, any::<bool>()).prop_map(|(key, claim)| Dedup { key, window: Duration::from_hours(24), claim })
}

fn order() -> impl Strategy<Value = Order> {
    let key = prop_oneof![
        Just(OrderKey::Subject(1)),
        "[A-Z][a-z-]{0,8}".prop_map(|name| OrderKey::Header(format!("X-{name}"))),
        "(/[a-z]{0,5}){0,3}".prop_map(OrderKey::Json),
    ];
    (key, any::<bool>(), 1..=1024_u32, 4096..=65_536_u32, sample::select(OnFailure::ALL)).prop_map(
        |(key, is_partitioned, partitions, window, on_failure)| {
            let form = match key {
                OrderKey::Subject(_) if is_partitioned => OrderForm::Partitions(partitions),
                _ => OrderForm::Queues { in_flight: window },
            };
            Order::Key(KeyOrder { key, form, on_failure })
        },
    )
}

/// What an event's waits and failures lead to.
#[derive(Debug, Clone)]
struct Course {
    ack: AckMode,
    ack_wait_slack: Duration,
    has_max_age: bool,
    dedup: Option<Dedup>,
    order: Option<Order>,
    kinds: Vec<(Kind, bool)>,
    schema: SchemaPolicy,
}

fn latest() -> impl Strategy<Value = Order> {
    let pointer = || "(/[a-z]{0,5}){0,3}";
    let header = || "[A-Z][a-z-]{0,8}".prop_map(|name| format!("X-{name}"));
    let key = prop_oneof![
        header().prop_map(OrderKey::Header),
        pointer().prop_map(OrderKey::Json),
        Just(OrderKey::Subject(1)),
    ];
    let time =
        prop_oneof![Just(OrderTime::Event), header().prop_map(OrderTime::Header), pointer().prop_map(OrderTime::Json)];
    let (on_stale, on_missing) = (sample::select(OnStale::ALL), sample::select(OnMissing::ALL));
    (key, time, on_stale, on_missing, millis(86_400_000..=2 * 86_400_000)).prop_map(
        |(key, time, on_stale, on_missing, window)| Order::Latest(Latest { key, time, on_stale, on_missing, window }),
    )
}

fn schema() -> impl Strategy<Value = SchemaPolicy> {
    let by = option::of("[A-Z][a-z-]{0,8}".prop_map(|name| format!("X-{name}")));
    let versions = collection::btree_map("[a-z.:/ #é\"-]{1,8}", path(), 0..3);
    let outputs = collection::btree_map("[a-z]{1,5}(\\.\\*|\\.>)?", path(), 0..3);
    (option::of(path()), by, versions, outputs).prop_map(|(default, header, versions, outputs)| {
        let by = header.filter(|_| !versions.is_empty()).map_or(SchemaBy::DataSchema, SchemaBy::Header);
        SchemaPolicy { default, by, versions, outputs }
    })
}

fn course() -> impl Strategy<Value = Course> {
    let kinds = sample::subsequence(Kind::OF_ATTEMPTS.to_vec(), 0..4);
    let kinds =
        kinds.prop_flat_map(|kinds| kinds.into_iter().map(|kind| (Just(kind), any::<bool>())).collect::<Vec<_>>());
    let ack = (sample::select(AckMode::ALL), millis(1000..=3_600_000), any::<bool>());
    let order = prop_oneof![order(), latest()];
    (ack, option::of(dedup()), option::of(order), kinds, schema()).prop_map(
        |((ack, ack_wait_slack, has_max_age), dedup, order, kinds, schema)| {
            let claims = dedup.as_ref().is_some_and(|dedup| dedup.claim);
            let order = order.filter(|order| !claims || matches!(order, Order::Latest(_)));
            Course { ack, ack_wait_slack, has_max_age, dedup, order, kinds, schema }
        },
    )
}

fn gate() -> impl Strategy<Value = (Option<CircuitBreaker>, bool, Option<RateLimit>)> {
    let trigger = prop_oneof![
        (1..=100_000_u32).prop_map(|failures| Trigger::InARow { failures }),
        (0.01..=1.0, millis(1000..=3_600_000), 1..=1_000_000_u32)
            .prop_map(|(ratio, window, events_min)| Trigger::Ratio { ratio, window, events_min }),
    ];
    let day_ms = 86_400_000;
    let breaker = (trigger, millis(1000..=day_ms), millis(1000..=day_ms), 1..=1000_u32);
    let breaker = breaker.prop_map(|(trigger, one, other, successes)| CircuitBreaker {
        trigger,
        open_for: one.min(other),
        open_max: one.max(other),
        successes,
    });
    let per = sample::select(&[1_u64, 60, 3600, 86_400][..]).prop_map(Duration::from_secs);
    let rate = (1..=1_000_000_u32, per, 1..=1_000_000_u32, sample::select(Across::ALL));
    let rate = rate.prop_map(|(count, per, burst, across)| RateLimit { count, per, burst, across });
    (option::of(breaker), any::<bool>(), option::of(rate))
}

fn reach() -> impl Strategy<Value = (Vec<HttpGrant>, Vec<KeyGrant>, HttpPolicy, KeyValuePolicy)> {
    let http = "((GET|PUT)(,POST)? )?https?://[a-z]{1,5}(:[1-9][0-9]{1,3})?(/[a-z]{1,3}){0,2}/?";
    let http = http.prop_map(|text| HttpGrant::parse(&text).expect("a grant"));
    let keys = "(read )?[A-Za-z0-9_-]{1,8}(/[a-z/_=-][a-z/_=-]{0,5}\\.?)?";
    let keys = keys.prop_map(|text| KeyGrant::parse(&text).expect("a grant"));
    let gate = gate()
        .prop_map(|(breaker, _, rate)| (breaker, rate.map(|rate| RateLimit { across: Across::Instance, ..rate })));
    let limits = (millis(1..=60_000), millis(0..=60_000), 0..=256_u64 << 20, 1..=256_u32, gate).prop_map(
        |(connect_timeout, slack, response_bytes, in_flight, (circuit_breaker, rate_limit))| HttpPolicy {
            connect_timeout,
            request_timeout: connect_timeout + slack,
            response_bytes,
            in_flight,
            rate_limit,
            circuit_breaker,
        },
    );
    let of_keys = (0..=64_u64 << 20, 1..=100_000_u32)
        .prop_map(|(value_bytes, operations)| KeyValuePolicy { value_bytes, operations });
    (collection::vec(http, 0..3), collection::vec(keys, 0..3), limits, of_keys)
}

fn reload() -> impl Strategy<Value = Reload> {
    let guard = option::of(millis(1..=86_400_000));
    (guard, 0.01..=1.0, 1..=1_000_000_u32, 0.001..=1.0, any::<bool>()).prop_map(
        |(guard, max_failure_ratio, min_events, canary, rerun)| {
            let canary = if guard.is_some() { canary } else { 1.0 };
            Reload { guard, max_failure_ratio, min_events, canary, rerun }
        },
    )
}

fn handler() -> impl Strategy<Value = Handler> {
    let modes = (
        sample::select(Mode::ALL),
        sample::select(Format::ALL),
        sample::select(Isolation::ALL),
        any::<bool>(),
        1..=512_u32,
    );
    let maps = (
        collection::btree_map("c[a-z .]{0,5}", any::<String>(), 0..3),
        collection::btree_map("s[a-z-]{0,5}", secret(), 0..3),
        collection::vec("p[a-z]{1,5}(\\.\\*|\\.>)?", 0..3),
    );
    let policies = (limits(), retry(), millis(1000..=86_400_000_000));
    (identity(), modes, maps, policies, course(), (gate(), reload(), reach())).prop_map(
        |(
            identity,
            modes,
            maps,
            policies,
            course,
            (gate, reload, (http, keyvalue, limits_of_http, limits_of_keys)),
        )| {
            let (mode, format, isolation, create, concurrency) = modes;
            let (config, secrets, publish) = maps;
            let (limits, mut retry, max_age) = policies;
            let on =
                |again: bool| course.kinds.iter().filter(|(_, each)| *each == again).map(|(kind, _)| *kind).collect();
            retry.on = on(true);
            Handler {
                order: course.order.filter(|_| mode == Mode::Queue),
                name: String::new(),
                prefix: String::new(),
                component: identity.component,
                subjects: identity.subjects,
                create_stream: create && identity.stream.is_some(),
                stream: identity.stream,
                durable: identity.durable.unwrap_or_default(),
                mode,
                format,
                concurrency,
                ack: course.ack,
                ack_wait: limits.budget.timeout + course.ack_wait_slack,
                max_age: course.has_max_age.then(|| retry.initial + course.ack_wait_slack),
                schema: course.schema,
                dedup: course.dedup.filter(|_| mode == Mode::Queue),
                config,
                secrets,
                isolation,
                outputs: if create && limits.budget.outputs <= 1000 { Outputs::Atomic } else { Outputs::Each },
                limits,
                retry,
                circuit_breaker: gate.0.filter(|_| mode == Mode::Queue),
                outage_brake: gate.1,
                rate_limit: gate.2.filter(|limit| mode == Mode::Queue || limit.across == Across::Instance),
                dead_letter: DeadLetterPolicy { subject: identity.dead_letters, max_age, on: on(false) },
                allow: Allow { publish, http, keyvalue },
                http: limits_of_http,
                keyvalue: limits_of_keys,
                reload,
            }
        },
    )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let handlers = collection::btree_map("[a-z][a-z0-9_-]{0,8}", handler(), 0..4);
    (nats(), runtime(), handlers).prop_map(|(nats, runtime, mut handlers)| {
        // A prefix of its own keeps the generated subjects out of our own space.
        let nats = Nats { prefix: format!("own-{}", nats.prefix), ..nats };
        for (name, handler) in &mut handlers {
            handler.name.clone_from(name);
            handler.prefix.clone_from(&nats.prefix);
            handler.durable = format!("{}-{name}", handler.durable);
        }
        let mut durables = BTreeMap::new();
        for handler in handlers.values_mut() {
            let seen = durables.entry(handler.durable.clone()).or_insert(0);
            *seen += 1;
            if *seen > 1 {
                handler.durable = format!("{}_{seen}", handler.durable);
            }
        }
        Manifest { nats, runtime, handlers }
    })
}

/// Pieces of a manifest, so that noise gets past the first token.
fn noise() -> impl Strategy<Value = String> {
    let pieces = [
        "[handler.mail]",
        "[handler]",
        "[defaults]",
        "[policy.p]",
        "[nats]",
        "subject",
        "retry",
        "limits",
        "timeout",
        "url",
        "secrets",
        "config",
        "policy",
        "=",
        ".",
        "\n",
        "\"",
        "'",
        "\"\"\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        "5",
        "-1",
        "1e400",
        "nan",
        "0x",
        "true",
        "${",
        "${A:-",
        "$${",
        "mail.>",
        "*",
        "5s",
        "64MiB",
        "env:",
        "ü",
        "\u{0}",
        "\r\n",
        "#",
        " ",
        "\t",
        "2024-01-01",
    ];
    collection::vec(
        prop_oneof![4 => sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => any::<String>()],
        0..40,
    )
    .prop_map(|pieces| pieces.concat())
}

/// Uses all that a caller may use of an answer.
fn look_at(answer: &Result<Parsed, Problems>) {
    let problems = match answer {
        Ok(parsed) => &parsed.warnings,
        Err(problems) => problems,
    };
    assert!(answer.is_ok() || !problems.problems.is_empty());
    let _ = (problems.to_string(), serde_json::to_string(problems).unwrap());
}

proptest! {
    #[test]
    fn a_written_manifest_is_read_back(expected in manifest()) {
        let text = render(&expected);
        match parsed(&text) {
            Ok(parsed) => prop_assert_eq!(parsed.manifest, expected, "{}", text),
            Err(problems) => prop_assert!(false, "{problems}\n{text}"),
        }
    }

    #[test]
    fn a_mangled_manifest_does_not_panic(
        manifest in manifest(), cut in any::<sample::Index>(), length in 0..20_usize, patch in noise(),
    ) {
        let mut text = render(&manifest);
        let start = text.floor_char_boundary(cut.index(text.len()));
        let end = text.floor_char_boundary(text.len().min(start + length));
        text.replace_range(start..end, &patch);
        look_at(&parsed(&text));
    }

    #[test]
    fn noise_does_not_panic(main in noise(), drop_in in noise(), bytes in any::<Vec<u8>>(), path in any::<String>()) {
        let main = Source { path: "tidemill.toml", text: &main };
        let drop_in = Source { path: &path, text: &drop_in };
        look_at(&parse(main, &[drop_in], &|name| (name == "A").then(|| "${A}".to_owned())));
        look_at(&parsed(&String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn a_literal_secret_is_not_shown(secret in "[A-Za-z0-9]{12,20}", patch in noise()) {
        let text = format!("[handler.mail.secrets]\napi_key = \"{secret}\"\n{patch}\n");
        if let Err(problems) = parsed(&text) {
            prop_assert!(!problems.to_string().contains(&secret), "{problems}");
        }
    }
}

#[test]
fn a_flood_of_problems_is_cut_and_a_flood_of_text_refused() {
    let flood: String = (0..500).fold(String::new(), |text, index| text + &format!("key{index} = 1\n"));
    let problems = parsed(&flood).unwrap_err();
    assert_eq!((problems.problems.len(), problems.omitted), (100, 400));
    assert!(problems.to_string().ends_with("and 400 more\n"));
    let problems = parsed(&"#".repeat((1 << 20) + 1)).unwrap_err();
    assert!(problems.to_string().starts_with("error: a manifest has at most 1MiB\n"));
    look_at(&parsed(&"[".repeat(100_000)));
    look_at(&parsed(&format!("a = {}", "{ a = ".repeat(10_000))));
    look_at(&parsed(&format!("{}a = 1", "a.".repeat(10_000))));
}
