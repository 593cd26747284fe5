//! Aim: a directory keeps what it was given, and never shows anything else.
//! Method: real directories, real processes that are killed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use pgkeep_base::ErrorKind;
use pgkeep_store::conformance::{Effort, check_with};
use pgkeep_store::{CreateOnly, Created, Payload, Store, StoreConfig, create_root, open, probe_create_only};

use crate::{name, no_environment, told};

fn at(root: &Path) -> Arc<dyn Store> {
    open(&StoreConfig::at(format!("file://{}", root.display())), &no_environment).expect("an absolute path")
}

async fn listed(store: &dyn Store, prefix: &str) -> Vec<String> {
    let names = store.list(prefix, None).map_ok(|meta| meta.name.to_string());
    names.try_collect().await.expect("a readable directory can be listed")
}

#[tokio::test]
async fn a_directory_conforms_and_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    let report = check_with(&*store, "scratch/here", Effort::Thorough).await;
    assert!(report.passed(), "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(probe_create_only(&*store, "").await.unwrap(), CreateOnly::Honoured);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_listing_is_in_byte_order_of_whole_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    for text in ["a/b/c", "a-b", "a.b", "a/b-c", "a/b.c/d", "a0", "b"] {
        store.create(&name(text), Payload::default()).await.unwrap();
    }
    std::fs::write(folder.path().join("not ours"), "x").unwrap();
    std::fs::write(folder.path().join("a/#unfinished-0123"), "x").unwrap();
    std::fs::create_dir(folder.path().join("lost+found")).unwrap();
    std::fs::set_permissions(folder.path().join("lost+found"), std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(
        listed(&*store, "").await,
        ["a-b", "a.b", "a/b-c", "a/b.c/d", "a/b/c", "a0", "b"]
    );
}

#[tokio::test]
async fn a_missing_root_is_an_unmounted_disk_and_never_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mount/repository");
    let store = at(&root);
    let config = StoreConfig::at(store.url());
    let object = name("a/b");
    let unavailable = Some(ErrorKind::Unavailable);
    assert_eq!(
        store.create(&object, Payload::from("x")).await.err().map(|e| e.kind()),
        unavailable
    );
    assert_eq!(store.exists(&object).await.err().map(|e| e.kind()), unavailable);
    assert_eq!(store.read(&object, 9).await.err().map(|e| e.kind()), unavailable);
    assert_eq!(store.delete(&object).await.err().map(|e| e.kind()), unavailable);
    assert_eq!(store.list_directories("").await.err().map(|e| e.kind()), unavailable);
    assert_eq!(
        store.list("", None).try_next().await.err().map(|e| e.kind()),
        unavailable
    );
    assert!(!root.exists());

    create_root(&config).await.unwrap();
    create_root(&config).await.unwrap();
    assert_eq!(store.create(&object, Payload::from("x")).await.unwrap(), Created::New);
    std::fs::remove_dir_all(&root).unwrap();
    let error = store.create(&object, Payload::from("x")).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable && told(&error).contains("Mount the disk"),
        "{}",
        told(&error)
    );
}

#[tokio::test]
async fn a_name_below_an_object_or_of_a_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    store.create(&name("a/b"), Payload::from("x")).await.unwrap();
    for text in ["a/b/c", "a"] {
        let error = store.create(&name(text), Payload::from("y")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", told(&error));
    }
    assert!(!store.exists(&name("a/b/c")).await.unwrap());
    assert!(!store.exists(&name("a")).await.unwrap());
    store.delete(&name("a")).await.unwrap();
    assert_eq!(store.read(&name("a/b"), 9).await.unwrap(), "x");
}

#[tokio::test]
async fn deleting_makes_way_for_creating_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    let work = (0..4).map(|worker| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for i in 0..60 {
                let object = name(&format!("shared/deep/{worker}-{i}"));
                let created = store
                    .create(&object, Payload::from("x"))
                    .await
                    .map_err(|e| told(&e))
                    .unwrap();
                assert_eq!(created, Created::New);
                store.delete(&object).await.unwrap();
            }
        })
    });
    for done in futures::future::join_all(work).await {
        done.unwrap();
    }
    assert!(listed(&*store, "").await.is_empty());
}

/// The environment variable that makes this test binary a writer to be killed.
const WRITER_ROOT: &str = "PGKEEP_STORE_TEST_WRITER_ROOT";
const KILLED_BODY_BYTES: usize = 3 << 20;

#[tokio::test]
async fn killed_writers_leave_only_whole_objects() {
    let folder = tempfile::tempdir().unwrap();
    if let Ok(root) = std::env::var(WRITER_ROOT) {
        return write_for_ever(Path::new(&root)).await;
    }
    for round in 0..12u64 {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "local::killed_writers_leave_only_whole_objects"])
            .env(WRITER_ROOT, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(60 + 17 * round)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    let store = at(folder.path());
    let names = listed(&*store, "").await;
    assert!(!names.is_empty(), "the writers were killed before they wrote anything");
    for text in names {
        let body = store.read(&name(&text), KILLED_BODY_BYTES as u64).await.unwrap();
        assert_eq!(body.len(), KILLED_BODY_BYTES, "{text} is not whole");
        assert!(body.iter().all(|byte| *byte == body[0]), "{text} is mixed");
    }
}

/// Aim: a body that the disk takes only in part is an error and leaves nothing.
/// Method: a writer whose files may have 1 KiB, by `ulimit -f` (the write fails as it does on a full disk).
#[tokio::test]
async fn a_short_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    if let Ok(root) = std::env::var(WRITER_ROOT) {
        let error = at(Path::new(&root))
            .create(&name("a/b"), vec![1; 100_000].into())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{}", told(&error));
        return;
    }
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact local::a_short_write_leaves_nothing";
    let writer = std::process::Command::new("sh")
        .args(["-c", script, std::env::current_exe().unwrap().to_str().unwrap()])
        .env(WRITER_ROOT, folder.path())
        .output()
        .unwrap();
    assert!(writer.status.success(), "{}", String::from_utf8_lossy(&writer.stdout));
    let left = std::process::Command::new("find")
        .arg(folder.path())
        .args(["-type", "f"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

async fn write_for_ever(root: &Path) {
    let store = at(root);
    for i in 0u64.. {
        let object = name(&format!("by-{}/{}/{i}", std::process::id(), i % 3));
        let body: Payload = vec![i as u8; KILLED_BODY_BYTES].into();
        store
            .create(&object, body)
            .await
            .expect("nobody disturbs the writer but SIGKILL");
    }
}
