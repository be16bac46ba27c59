use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tidemill_policy::reload::start::{Kept, Pin};

use super::*;

fn opened() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let versions = Store::open(folder.path().join("versions")).expect("it can be made");
    (folder, versions)
}

/// Keeps a version that was put there so many seconds ago, and returns its digest.
fn keep(versions: &Store, text: &str, seconds_ago: u64) -> String {
    let digest = digest(text.as_bytes());
    versions.keep("mail", &digest, text.as_bytes()).expect("kept");
    let file = fs::File::options().append(true).open(path(versions, &digest)).expect("there");
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).expect("set");
    digest
}

fn path(versions: &Store, digest: &str) -> PathBuf {
    versions.folder.join("mail").join(format!("{digest}.wasm"))
}

fn entry(number: u64) -> Entry {
    Entry {
        time: "2026-01-31T12:00:00Z".into(),
        digest: "d".into(),
        outcome: Outcome::WentBack,
        why: Some("too many failed\nreally".into()),
        attempts: number,
        failures: 3,
        instance: "a".into(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn what_was_kept_is_read_back() {
    let (_folder, versions) = opened();
    let one = keep(&versions, "one", 0);
    assert_eq!(versions.bytes("mail", &one).expect("read").as_deref(), Some(&b"one"[..]));
    assert!(versions.has("mail", &one) && !versions.has("other", &one));
    assert_eq!(names(&versions.folder.join("mail")), [".lock", &format!("{one}.wasm")]);

    assert_eq!(versions.state("mail").expect("read"), Kept::default());
    let pin = Pin { digest: one.clone(), instead_of: digest(b"two"), why: "it failed".into() };
    let state = Kept { kept: Some(one), pin: Some(pin) };
    versions.set_state("mail", &state).expect("written");
    assert_eq!(versions.state("mail").expect("read"), state);
    assert_eq!(Store::open(versions.folder.clone()).expect("opened").state("mail").expect("read"), state);
}

#[test]
fn bytes_without_their_digest_are_never_taken() {
    let (_folder, versions) = opened();
    let error = versions.keep("mail", &digest(b"one"), b"two").expect_err("another digest");
    assert!(error.to_string().starts_with("handler.mail: the component's digest is "), "{error}");
    assert!(!versions.folder.join("mail").exists());

    let one = keep(&versions, "one", 0);
    for damage in ["", "on", "onE", "one and more"] {
        fs::write(path(&versions, &one), damage).expect("written");
        assert!(!versions.has("mail", &one), "{damage:?}");
        assert_eq!(versions.bytes("mail", &one).expect("read"), None);
        keep(&versions, "one", 0);
        assert!(versions.has("mail", &one), "keeping it again heals it");
    }
    for named in ["", "..", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
        assert_eq!(versions.bytes("mail", named).expect("no such version"), None, "{named:?}");
    }
}

#[test]
fn a_state_that_makes_no_sense_is_as_if_it_were_not_there() {
    let (_folder, versions) = opened();
    keep(&versions, "one", 0);
    let file = versions.folder.join("mail").join("state.json");
    for text in ["", "{", "null", "[]", r#"{"kept": 5}"#, r#"{"pin": {"digest": "a"}}"#, "\u{0}\u{0}"] {
        fs::write(&file, text).expect("written");
        assert_eq!(versions.state("mail").expect("read"), Kept::default(), "{text:?}");
    }
    fs::write(&file, r#"{"kept": "a", "of a later release": 1}"#).expect("written");
    assert_eq!(versions.state("mail").expect("read"), Kept { kept: Some("a".into()), pin: None });
}

#[test]
fn what_happened_is_told_in_order() {
    let (_folder, versions) = opened();
    assert_eq!(versions.history("mail").expect("read"), []);
    for number in 0..3 {
        versions.record("mail", &entry(number)).expect("written");
    }
    assert_eq!(versions.history("mail").expect("read"), [entry(0), entry(1), entry(2)]);
    let text = fs::read_to_string(versions.folder.join("mail/log.jsonl")).expect("read");
    let first = r#"{"time":"2026-01-31T12:00:00Z","digest":"d","outcome":"went-back","why":"too many failed\nreally","attempts":0,"failures":3,"instance":"a"}"#;
    assert_eq!(text.lines().next(), Some(first));
}

#[test]
fn a_line_that_a_kill_cut_off_costs_no_other() {
    let (_folder, versions) = opened();
    versions.record("mail", &entry(0)).expect("written");
    let file = versions.folder.join("mail/log.jsonl");
    let whole = fs::read(&file).expect("read");
    for length in 0..whole.len() {
        fs::write(&file, [&whole[..], &whole[..length]].concat()).expect("written");
        let told = versions.history("mail").expect("read").len();
        // Of a whole line, only its end is missing.
        assert_eq!(told, if length == whole.len() - 1 { 2 } else { 1 }, "{length} bytes");
        versions.record("mail", &entry(1)).expect("written");
        let history = versions.history("mail").expect("read");
        assert_eq!((history.len(), history.last()), (told + 1, Some(&entry(1))), "{length} bytes");
    }
}

#[test]
fn the_log_is_bounded() {
    let (_folder, versions) = opened();
    let file = versions.folder.join("mail/log.jsonl");
    versions.record("mail", &entry(0)).expect("written");
    let lines: Vec<_> = (1..=2000).map(|number| serde_json::to_string(&entry(number)).expect("JSON")).collect();
    fs::write(&file, lines.join("\n")).expect("written");
    versions.record("mail", &entry(2001)).expect("written");
    let history = versions.history("mail").expect("read");
    assert_eq!((history.len(), &history[0], &history[999]), (1000, &entry(1002), &entry(2001)));
    let long = Entry { why: Some("ä".repeat(1 << 20)), ..entry(1) };
    versions.record("mail", &long).expect("written");
    let last = versions.history("mail").expect("read").pop().expect("an entry");
    assert_eq!(last.why.map(|why| why.len()), Some(4096));
}

#[test]
fn the_oldest_versions_go_but_never_those_that_are_needed() {
    let (_folder, versions) = opened();
    let all: Vec<_> = (0..8).map(|age| keep(&versions, &format!("v{age}"), 100 - age)).collect();
    let pin = Pin { digest: all[1].clone(), instead_of: all[2].clone(), why: String::new() };
    versions.set_state("mail", &Kept { kept: Some(all[0].clone()), pin: Some(pin) }).expect("written");
    let removed = versions.tidy("mail", 6, &[&all[3]]).expect("tidied");
    assert_eq!(removed, all[4..6]);
    assert_eq!(versions.tidy("mail", 6, &[&all[3]]).expect("tidied"), [""; 0]);
    assert_eq!(versions.tidy("mail", 1, &[&all[3]]).expect("tidied"), all[6..8]);
    for digest in &all[..4] {
        assert!(versions.has("mail", digest));
    }
    versions.set_state("mail", &Kept::default()).expect("written");
    // One that is put there again is the newest.
    versions.keep("mail", &all[0], b"v0").expect("kept");
    assert_eq!(versions.tidy("mail", 1, &[]).expect("tidied"), all[1..4]);
    assert!(versions.tidy("unknown", 1, &[]).expect("nothing to do").is_empty());
}

#[test]
fn what_a_kill_left_behind_goes_after_a_while() {
    let (_folder, versions) = opened();
    let one = keep(&versions, "one", 10_000);
    let folder = versions.folder.join("mail");
    for (name, seconds_ago) in [(".unfinished-old", 7200), (".unfinished-new", 10), ("of-somebody-else", 7200)] {
        fs::write(folder.join(name), "half").expect("written");
        let file = fs::File::options().append(true).open(folder.join(name)).expect("there");
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).expect("set");
    }
    versions.tidy("mail", 5, &[]).expect("tidied");
    let expected = [".lock", ".unfinished-new", &format!("{one}.wasm"), "of-somebody-else"];
    assert_eq!(names(&folder), expected);
}

#[test]
fn a_folder_that_cannot_be_used_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    // A file system that is read-only for everybody, root included.
    for unusable in [file.join("versions"), file, "/proc/tidemill".into()] {
        let error = Store::open(unusable.clone()).expect_err("unusable").to_string();
        let start = format!("versions cannot be kept in {}: ", unusable.display());
        assert!(error.starts_with(&start), "{error}");
        assert!(error.ends_with("or name another folder with runtime.versions"), "{error}");
    }
    let versions = Store::open(folder.path().join("versions")).expect("opened");
    fs::write(folder.path().join("versions/mail"), "").expect("written");
    let error = versions.record("mail", &entry(0)).expect_err("a file is in the way").to_string();
    assert!(error.contains("versions/mail: "), "{error}");
}

#[test]
fn many_at_once_lose_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 20;
    let (_folder, versions) = opened();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let versions = versions.clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    let digest = keep(&versions, &format!("v{}", number % 3), 0);
                    versions.record("mail", &entry(thread * EACH + number)).expect("written");
                    versions.set_state("mail", &Kept { kept: Some(digest.clone()), pin: None }).expect("written");
                    assert!(versions.state("mail").expect("read").kept.is_some());
                    assert!(versions.has("mail", &digest), "nobody sees half a file");
                }
            });
        }
    });
    let mut told: Vec<_> = versions.history("mail").expect("read").iter().map(|entry| entry.attempts).collect();
    told.sort_unstable();
    assert_eq!(told, (0..THREADS * EACH).collect::<Vec<_>>());
    assert!(names(&versions.folder.join("mail")).iter().all(|name| !name.starts_with(".unfinished")));
}
