//! What is noticed: files that change by themselves, folders that go and come, links that lead elsewhere.

use super::*;

/// Looks at the files so often that a test need not wait, where the system tells nothing.
fn watched() -> String {
    HANDLER.replace("listen = 'off'", "listen = 'off'\nwatch_poll = '100ms'")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_loaded_by_themselves() {
    let (world, folder) = scene(&watched(), &version(&subject(1))).await;
    let live = folder.start(&world, true).await;
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.runs("h", &version(&subject(2))).await;
    // Written in place, and in two halves.
    let next = version(&subject(3));
    fs::write(folder.path("plugins/h.wasm"), &next[..next.len() / 2]).expect("written");
    sleep(Duration::from_millis(50)).await;
    fs::write(folder.path("plugins/h.wasm"), &next).expect("written");
    live.runs("h", &next).await;
    folder.put(
        "tidemill.toml",
        watched().replace("[handler.h]", "[handler.other]\nsubject = 'more.>'\ncomponent = 'h.wasm'\n\n[handler.h]"),
    );
    eventually("what is wrong is told", || async {
        live.status
            .report()
            .instance
            .troubles
            .iter()
            .any(|trouble| trouble.why.contains("no stream stores"))
            .then_some(())
    })
    .await;
    live.stop().await;
}

/// As a deployment does that replaces the whole folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_deleted_and_made_anew_is_followed() {
    let (world, folder) = scene(&watched(), &version(&subject(1))).await;
    let live = folder.start(&world, true).await;
    fs::remove_dir_all(folder.path("plugins")).expect("removed");
    eventually("it is told", || async { (!live.status.report().instance.troubles.is_empty()).then_some(()) }).await;
    publish(&world, "a").await;
    assert_eq!(outputs(&world, 1).await["a"], subject(1));
    fs::create_dir(folder.path("plugins")).expect("made");
    folder.put("plugins/h.wasm", version(&subject(2)));
    live.runs("h", &version(&subject(2))).await;
    folder.put("plugins/h.wasm", version(&subject(3)));
    live.runs("h", &version(&subject(3))).await;
    live.stop().await;
}

/// As Kubernetes does it with config maps: `plugins/h.wasm` leads to `..data/h.wasm`, and `..data` to a folder.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_swapped_are_followed() {
    use std::os::unix::fs::symlink;
    let world = World::in_and_out().await;
    let folder = Folder::new(&watched());
    let provide = |number: usize| {
        let data = folder.path(&format!("plugins/..data_{number}"));
        fs::create_dir(&data).expect("made");
        fs::write(data.join("h.wasm"), version(&subject(number))).expect("written");
        let link = folder.path("plugins/..data_tmp");
        symlink(&data, &link).expect("linked");
        fs::rename(link, folder.path("plugins/..data")).expect("swapped");
    };
    provide(1);
    symlink("..data/h.wasm", folder.path("plugins/h.wasm")).expect("linked");
    let live = folder.start(&world, true).await;
    for number in 2..=4 {
        provide(number);
        live.runs("h", &version(&subject(number))).await;
    }
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_files_that_change_at_once_are_one_generation() {
    let (world, folder) = scene(&watched(), &version(&subject(0))).await;
    let names: Vec<_> = (0..100).map(|number| format!("h{number}")).collect();
    for name in &names {
        folder.put(&format!("plugins/{name}.wasm"), version(&subject(1)));
        folder.put(
            &format!("plugins/{name}.toml"),
            format!("subject = 'in.{name}'\nconcurrency = 1\nreload = {{ guard = '0s' }}\n"),
        );
    }
    folder.put("tidemill.toml", watched().replace("'in.>'", "'in.x'\nconcurrency = 1"));
    let live = folder.start(&world, true).await;
    let before = live.status.report().instance.reloads.generation;
    for name in &names {
        folder.put(&format!("plugins/{name}.wasm"), version(&subject(2)));
    }
    for name in &names {
        live.runs(name, &version(&subject(2))).await;
    }
    let after = live.status.report().instance.reloads.generation;
    assert!(after - before <= 3, "{} generations", after - before);
    live.stop().await;
}

/// Schemas and secrets are part of what runs.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_watched_with_all_that_they_refer_to() {
    let manifest = watched().replace("[handler.h]", "[handler.h]\nschema = 'a.json'");
    let (world, folder) = scene(&manifest, &echo()).await;
    folder.put("a.json", "{ \"$ref\": \"b.json\" }");
    folder.put("b.json", "{ \"type\": \"string\" }");
    let live = folder.start(&world, true).await;
    let generation = live.status.report().instance.reloads.generation;
    folder.put("b.json", "{ \"type\": \"integer\" }");
    eventually("the schema is loaded", || async {
        (live.status.report().instance.reloads.generation > generation).then_some(())
    })
    .await;
    publish(&world, "7").await;
    assert_eq!(outputs(&world, 1).await["7"], "out.echo");
    live.stop().await;
}
