//! Markers that are looked up at about the same time, on a real server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::{Nats, markers, streams};
use tidemill_policy::manifest::Auth;

use crate::support::{World, parse};

/// Where several keys are asked for together.
const TOGETHER: &str = "$JS.API.DIRECT.GET.KV_tidemill_done";
const LIFETIME: Duration = Duration::from_mins(1);
/// Many keys, and messages so large that they lie in several blocks of the server's file.
const KEYS: u64 = 1_500;
const MESSAGES: u64 = 5_000;
const BYTES: usize = 8_192;

/// A connection as the user, with our streams.
async fn nats(world: &World, user: Option<&str>) -> Nats {
    let manifest = parse("[handler.h]\nsubject = 'in.>'\nstream = 'IN'\ndedup = { key = 'id', window = '1h' }\n");
    let url = match user {
        Some(user) => world.server.url.replace("nats://", &format!("nats://{user}@")),
        None => world.server.url.clone(),
    };
    let target = Target { urls: vec![url], auth: Auth::None, tls: None, base: std::path::PathBuf::new() };
    let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
    let mut nats = Nats::new(client, link);
    streams::prepare(&mut nats, &manifest).await.expect("our streams");
    nats
}

/// How many questions for several keys there were.
async fn asked_together(questions: &mut Subscriber, nats: &Nats) -> usize {
    nats.client.flush().await.expect("sent");
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(200), questions.next()).await {
        count += 1;
    }
    count
}

/// Looks all of these keys up at once, and returns their revisions.
async fn revisions(nats: &Nats, keys: &[String]) -> Vec<u64> {
    let looked_up = join_all(keys.iter().map(|key| markers::read(nats, key))).await;
    looked_up.into_iter().map(|found| found.expect("an answer").revision).collect()
}

/// What is not found must not be there, or what has ended would be run again.
#[tokio::test]
async fn what_is_looked_up_together_is_found_as_if_each_were_looked_up_alone() {
    let world = World::in_and_out().await;
    let nats = nats(&world, None).await;
    let mut questions = world.client.subscribe(TOGETHER).await.expect("a subscription");
    world.client.flush().await.expect("subscribed");
    let mut kept = BTreeMap::new();
    // Keys are written in no order, and some of them again and again.
    let writes: Vec<_> = (0..MESSAGES).map(|n| format!("k{}", n * n % 7_919 % KEYS)).collect();
    for keys in writes.chunks(500) {
        let payload = Bytes::from(vec![b'x'; BYTES]);
        let sent =
            keys.iter().map(|key| world.context.publish(markers::subject("tidemill_done", key), payload.clone()));
        for (key, sent) in keys.iter().zip(join_all(sent).await) {
            let stored = sent.expect("sent").await.expect("stored").sequence;
            let latest = kept.entry(key.clone()).or_insert(stored);
            *latest = stored.max(*latest);
        }
    }
    let keys: Vec<_> = (0..2 * KEYS).map(|n| format!("k{n}")).collect();
    let expected: Vec<_> = keys.iter().map(|key| kept.get(key).copied().unwrap_or_default()).collect();
    assert!(expected.iter().any(|revision| *revision > 0) && expected.contains(&0));
    for _ in 0..3 {
        let found = revisions(&nats, &keys).await;
        let wrong: Vec<_> = (0..keys.len()).filter(|&n| found[n] != expected[n]).collect();
        assert!(wrong.is_empty(), "{} of {} keys: {wrong:?}", wrong.len(), keys.len());
    }
    let info = nats.client.server_info();
    let is_whole = nats.client.is_server_compatible(2, 14, 6);
    assert_eq!(asked_together(&mut questions, &nats).await > 0, is_whole, "version {}", info.version);
    // What comes alone is asked for alone.
    assert_eq!(revisions(&nats, &["k1".to_owned()]).await, [expected[1]]);
    assert_eq!(asked_together(&mut questions, &nats).await, 0);
}

#[tokio::test]
async fn without_the_permission_each_is_looked_up_alone() {
    let accounts = format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: admin, password: x }}, \
         {{ user: app, password: y, permissions: {{ publish: {{ deny: [\"{TOGETHER}\"] }} }} }} ] }} }}\n\
         no_auth_user: admin\n"
    );
    let world = World::start_with(&accounts).await;
    let nats = nats(&world, Some("app:y")).await;
    let stored = markers::replace(&nats, "k1", "{}".into(), LIFETIME, 0).await.expect("written");
    let keys: Vec<_> = (0..300).map(|n| format!("k{n}")).collect();
    for _ in 0..2 {
        let found = revisions(&nats, &keys).await;
        assert_eq!((found[1], found.iter().sum::<u64>()), (stored, stored));
    }
}

#[tokio::test]
async fn a_bucket_that_is_gone_is_a_failure_for_each_and_is_made_anew() {
    let world = World::in_and_out().await;
    let nats = nats(&world, None).await;
    markers::replace(&nats, "k1", "{}".into(), LIFETIME, 0).await.expect("written");
    world.context.delete_stream("KV_tidemill_done").await.expect("deleted");
    let keys: Vec<_> = (0..300).map(|n| format!("k{n}")).collect();
    let looked_up = join_all(keys.iter().map(|key| markers::read(&nats, key))).await;
    assert!(looked_up[0].is_err(), "{:?}", looked_up[0]);
    assert!(revisions(&nats, &keys).await.iter().all(|revision| *revision == 0), "it was made anew");
}

/// Whoever looks up may end before there is an answer.
#[tokio::test]
async fn what_is_not_waited_for_any_more_holds_up_nobody() {
    let world = World::in_and_out().await;
    let nats = nats(&world, None).await;
    let stored = markers::replace(&nats, "k1", "{}".into(), LIFETIME, 0).await.expect("written");
    for n in 0..1_000 {
        let key = format!("k{n}");
        assert!(markers::read(&nats, &key).now_or_never().is_none(), "the server was asked");
    }
    assert_eq!(revisions(&nats, &["k1".to_owned(), "k2".to_owned()]).await, [stored, 0]);
}
