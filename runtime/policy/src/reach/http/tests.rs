use proptest::prelude::*;

use super::*;

fn grants(texts: &[&str]) -> Vec<HttpGrant> {
    texts.iter().map(|text| HttpGrant::parse(text).expect("a grant")).collect()
}

fn target(method: &str, url: &str) -> Result<Target, Refusal> {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Target::new(method, scheme, authority, path)
}

#[track_caller]
fn check(granted: &[&str], method: &str, url: &str, expected: &str) {
    let said = target(method, url).and_then(|target| admit(&grants(granted), &target));
    let said = said.err().map(|refusal| refusal.to_string()).unwrap_or_default();
    assert_eq!(said, expected, "{granted:?} {method} {url}");
}

#[test]
fn an_origin_grants_all_of_itself_and_nothing_else() {
    let granted = &["https://api.example"];
    check(granted, "GET", "https://api.example/", "");
    check(granted, "DELETE", "https://API.example:443/any/../thing?x=1#y", "");
    for url in [
        "http://api.example/",
        "https://api.example:8443/",
        "https://evil.example/",
        "https://api.example.evil.example/",
        "https://xapi.example/",
    ] {
        let origin = url.trim_end_matches('/');
        let expected = format!("GET {url} is not granted; add \"{origin}\" to allow.http of the handler");
        check(granted, "GET", url, &expected);
    }
    check(granted, "CONNECT", "https://api.example/", "CONNECT https://api.example is refused: no grant covers it");
    check(
        &[],
        "GET",
        "https://a.example/b?secret=1",
        "GET https://a.example/b is not granted; add \"https://a.example\" to allow.http of the handler",
    );
    check(
        granted,
        "GET",
        "https://api.example@evil.example/",
        "a request is refused: a user or password must not stand before the host",
    );
}

#[test]
fn a_path_grants_what_is_below_it() {
    let below = |granted: &str, path: &str, expected: bool| {
        let target = target("GET", &format!("https://api.example{path}")).expect("a target");
        assert_eq!(admit(&grants(&[granted]), &target).is_ok(), expected, "{granted} {path}");
    };
    for (path, v1, v1_slash) in [
        ("/v1", true, false),
        ("/v1/", true, true),
        ("/v1?x", true, false),
        ("/v1/users", true, true),
        ("/v1/users/%C3%A9%20x", true, true),
        ("/v1/a.b/..c/...", true, true),
        ("/v1//users", true, true),
        ("/v10", false, false),
        ("/V1/users", false, false),
        ("/%76%31/users", false, false),
        ("/", false, false),
        ("//v1/users", false, false),
        ("/v1/../admin", false, false),
        ("/v1/..", false, false),
        ("/v1/.", false, false),
        ("/v1/./users", false, false),
        ("/v1/..;x/admin", false, false),
        ("/v1/%2e%2e/admin", false, false),
        ("/v1/%2E./admin", false, false),
        ("/v1/%252e%252e/admin", false, false),
        ("/v1/..%2fadmin", false, false),
        ("/v1/x%2fy", false, false),
        ("/v1/x%252fy", false, false),
        ("/v1/..\\admin", false, false),
        ("/v1/x%5c..%5cadmin", false, false),
        ("/v1/x%00", false, false),
        ("/v1/%", false, false),
        ("/v1/%zz", false, false),
        ("/v1/%+1", false, false),
    ] {
        below("https://api.example/v1", path, v1);
        below("https://api.example/v1/", path, v1_slash);
    }
    // Where all paths are granted, it does not matter what a server makes of them.
    for whole in [&["https://api.example"][..], &["https://api.example/v1/", "https://api.example/"]] {
        check(whole, "GET", "https://api.example/v1/../admin", "");
    }
    check(
        &["https://api.example/v1/"],
        "GET",
        "https://api.example/v1/%2e%2e/x",
        "GET https://api.example/v1/%2e%2e/x is \
        refused: with a grant for certain paths, a path must not have \".\" or \"..\", \"\\\", or an encoded \"/\" in it",
    );
}

#[test]
fn methods_are_granted_with_their_paths() {
    let granted = &["GET,HEAD https://api.example", "POST https://api.example/orders"];
    check(granted, "GET", "https://api.example/x", "");
    check(granted, "POST", "https://api.example/orders/1", "");
    for (method, url) in
        [("POST", "https://api.example/x"), ("get", "https://api.example/"), ("PUT", "https://api.example/orders")]
    {
        let expected = format!(
            "{method} {url} is not granted; allow.http grants \"GET,HEAD https://api.example\", \
             \"POST https://api.example/orders\" of that origin"
        );
        check(granted, method, url, &expected);
    }
}

#[test]
fn what_is_no_grant_says_why() {
    for (text, expected) in [
        ("", GrantError::Form),
        ("api.example", GrantError::Form),
        ("*", GrantError::Form),
        ("https://", GrantError::Origin(OriginError::Host)),
        ("https://*.example", GrantError::Origin(OriginError::Host)),
        ("ftp://api.example", GrantError::Origin(OriginError::Scheme)),
        ("https://me@api.example", GrantError::Origin(OriginError::UserInfo)),
        ("https://api.example:99999", GrantError::Origin(OriginError::Port)),
        ("https://api.example?x", GrantError::Query),
        ("https://api.example/#x", GrantError::Query),
        ("https://api.example/a/../b", GrantError::Path),
        ("https://api.example/%61", GrantError::Path),
        ("https://api.example/*", GrantError::Path),
        ("https://api.example/a b", GrantError::Methods),
        ("https://api.example/\u{e9}", GrantError::Path),
        ("get https://api.example", GrantError::Methods),
        ("GET, POST https://api.example", GrantError::Methods),
        (",GET https://api.example", GrantError::Methods),
        ("CONNECT https://api.example", GrantError::Connect),
    ] {
        assert_eq!(HttpGrant::parse(text), Err(expected), "{text:?}");
    }
    assert_eq!(HttpGrant::parse(&format!("https://api.example/{}", "a".repeat(URL_BYTES_MAX))), Err(GrantError::Form));
}

#[test]
fn long_paths_are_cut_in_messages_and_refused_beyond_a_size() {
    let path = "a".repeat(URL_BYTES_MAX / 2);
    let said = target("GET", &format!("https://api.example/{path}")).expect("short enough").to_string();
    assert!(said.len() < 300 && said.ends_with('…'), "{said}");
    assert_eq!(target("GET", &format!("https://api.example/{path}{path}")), Err(Refusal::TooLong));
}

#[test]
fn origins_are_told_once() {
    let origins = origins(&grants(&["https://b.example/x", "http://a.example", "GET https://b.example:443"]));
    assert_eq!(origins.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://a.example", "https://b.example"]);
}

/// Segments of paths, plain and not.
fn segment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &["v1", "a", "", ".", "..", "%2e", "%2E%2e", ".%252e", "..;", "a%2fb", "%5c..", "\\", "..%00", "v1x", "%76"][..],
    )
}

/// What the most obliging server makes of a path: decoded until nothing is left to decode, backslashes taken for slashes,
/// parameters dropped, dots followed.
fn obliging(path: &str) -> Vec<String> {
    let mut text = path.to_owned();
    for (code, plain) in
        [("%25", "%"), ("%2e", "."), ("%2E", "."), ("%2f", "/"), ("%5c", "\\"), ("%76", "v"), ("%00", "")].repeat(3)
    {
        text = text.replace(code, plain);
    }
    let mut segments = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

proptest! {
    #[test]
    fn no_server_finds_a_way_out_of_a_granted_path(segments in prop::collection::vec(segment(), 0..6), slash: bool) {
        let granted = if slash { "https://api.example/v1/" } else { "https://api.example/v1" };
        let path = format!("/{}", segments.join("/"));
        let target = target("GET", &format!("https://api.example{path}")).expect("a target");
        if admit(&grants(&[granted]), &target).is_ok() {
            let found = obliging(&path);
            prop_assert_eq!(found.first().map(String::as_str), Some("v1"), "{}", path);
        }
    }

    #[test]
    fn a_plain_path_is_granted_if_it_begins_so(prefix in prop::collection::vec("[a-c]", 0..4), path in prop::collection::vec("[a-c]", 0..6)) {
        let granted = format!("https://api.example/{}", prefix.join("/"));
        let target = target("GET", &format!("https://api.example/{}", path.join("/"))).expect("a target");
        prop_assert_eq!(admit(&grants(&[&granted]), &target).is_ok(), path.starts_with(&prefix));
    }

    #[test]
    fn what_is_shown_is_read_as_the_same(text in "((GET|PUT)(,POST)? )?https?://[a-z]{1,3}(:[0-9]{1,4})?(/[a-z./]{0,6})?") {
        if let Ok(grant) = HttpGrant::parse(&text) {
            prop_assert_eq!(HttpGrant::parse(&grant.to_string()), Ok(grant));
        }
    }

    #[test]
    fn nothing_panics(grant in any::<String>(), method in any::<String>(), authority in any::<String>(), path in any::<String>()) {
        let _ = HttpGrant::parse(&grant);
        if let Ok(target) = Target::new(&method, "http", &authority, &path) {
            let _ = (admit(&grants(&["https://api.example/v1"]), &target), target.to_string());
        }
        let target = Target { method, origin: Origin::parse("https", "api.example").expect("an origin"), path };
        let _ = (admit(&grants(&["https://api.example/v1"]), &target), target.to_string());
    }
}
