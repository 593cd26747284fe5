//! Aim: a real S3 server with enforced policies is a conforming store, and a writer who may only PUT can only PUT.
//!
//! The server is the testkit's, unless `PGKEEP_TEST_S3` names another: endpoint, access key, secret key, bucket, with
//! commas between them; the bucket exists, and the server knows a second identity `writer`/`writersecret` that may only
//! put objects below `wo/`.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use pgkeep_base::ErrorKind;
use pgkeep_store::conformance::{Effort, check_with};
use pgkeep_store::{CreateOnly, Created, Payload, Store, StoreConfig, open, probe_create_only};

use crate::{name, open_s3, told};

struct Server {
    endpoint: String,
    access: String,
    secret: String,
    bucket: String,
}

impl Server {
    fn from_environment() -> Server {
        let Ok(value) = std::env::var("PGKEEP_TEST_S3") else {
            let server = pgkeep_testkit::S3Server::shared();
            return Server {
                endpoint: server.endpoint(),
                access: "admin".to_owned(),
                secret: "adminsecret".to_owned(),
                bucket: server.bucket("store").name().to_owned(),
            };
        };
        let parts: Vec<&str> = value.split(',').collect();
        let [endpoint, access, secret, bucket] = parts[..] else {
            panic!("PGKEEP_TEST_S3 must be `endpoint,access,secret,bucket` of a running S3 server");
        };
        Server {
            endpoint: endpoint.to_owned(),
            access: access.to_owned(),
            secret: secret.to_owned(),
            bucket: bucket.to_owned(),
        }
    }

    fn config(&self, prefix: &str) -> StoreConfig {
        StoreConfig {
            endpoint: Some(self.endpoint.clone()),
            allow_http: true,
            ..StoreConfig::at(format!("s3://{}/{prefix}", self.bucket))
        }
    }

    fn open(&self, prefix: &str) -> Arc<dyn Store> {
        open_s3(&self.config(prefix), &self.access, &self.secret)
    }
}

/// A prefix that no other run uses.
fn fresh(what: &str) -> String {
    format!("{what}-{}-{:08x}", std::process::id(), rand_u32())
}

fn rand_u32() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

#[tokio::test]
async fn a_real_s3_server_conforms() {
    let server = Server::from_environment();
    let store = server.open(&fresh("conformance"));
    let report = check_with(&*store, "scratch", Effort::Thorough).await;
    assert!(report.passed(), "{report}");
    assert_eq!(probe_create_only(&*store, "probe").await.unwrap(), CreateOnly::Honoured);
    assert!(
        store.list("", None).try_next().await.unwrap().is_none(),
        "something is left"
    );
}

#[tokio::test]
async fn a_bucket_without_prefix_is_a_store_too() {
    let server = Server::from_environment();
    let store = open_s3(&server.config("").clone(), &server.access, &server.secret);
    let object = name(&format!("{}/x", fresh("bare")));
    assert_eq!(store.create(&object, Payload::from("y")).await.unwrap(), Created::New);
    let found: Vec<_> = store.list(object.directory(), None).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, object);
    store.delete(&object).await.unwrap();
}

#[tokio::test]
async fn a_writer_can_create_and_nothing_else() {
    let server = Server::from_environment();
    let prefix = format!("wo/{}", fresh("writer"));
    let writer = open_s3(&server.config(&prefix), "writer", "writersecret");
    let object = name("a/b");
    assert_eq!(
        writer.create(&object, Payload::from("x")).await.map_err(|e| told(&e)),
        Ok(Created::New)
    );
    assert_eq!(
        writer.create(&object, Payload::from("y")).await.unwrap(),
        Created::AlreadyThere
    );
    assert_eq!(
        probe_create_only(&*writer, "probe").await.unwrap(),
        CreateOnly::Honoured
    );
    let denied = Some(ErrorKind::Denied);
    assert_eq!(writer.read(&object, 9).await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.read_range(&object, 0..1).await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.stat(&object).await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.exists(&object).await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.exists(&name("absent")).await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.list("", None).try_next().await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.list_directories("").await.err().map(|e| e.kind()), denied);
    assert_eq!(writer.delete(&object).await.err().map(|e| e.kind()), denied);
    let elsewhere = open_s3(&server.config("elsewhere"), "writer", "writersecret");
    assert_eq!(
        elsewhere
            .create(&object, Payload::from("x"))
            .await
            .err()
            .map(|e| e.kind()),
        denied
    );

    let keeper = server.open(&prefix);
    assert_eq!(keeper.read(&object, 9).await.unwrap(), "x");
    let left: Vec<_> = keeper.list("", None).try_collect().await.unwrap();
    for meta in left {
        keeper.delete(&meta.name).await.unwrap();
    }
}

#[tokio::test]
async fn wrong_keys_and_missing_buckets_say_what_they_are() {
    let server = Server::from_environment();
    let wrong = open_s3(&server.config("x"), &server.access, "not-the-secret");
    let error = wrong.exists(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!told(&error).contains("not-the-secret"));

    let config = StoreConfig {
        url: "s3://no-such-bucket-anywhere".into(),
        retries: 0,
        ..server.config("x")
    };
    let nowhere = open_s3(&config, &server.access, &server.secret);
    for error in [
        nowhere.exists(&name("a")).await.err(),
        nowhere.read(&name("a"), 9).await.err(),
        nowhere.list("", None).try_next().await.err(),
    ] {
        let error = error.expect("a missing bucket holds nothing, not even nothing");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    }
}

#[tokio::test]
async fn keys_in_files_are_read_anew() {
    let server = Server::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    write(&file("id"), &server.access);
    write(&file("secret"), "outdated\n");
    let config = StoreConfig {
        access_key_id_file: Some(file("id")),
        secret_access_key_file: Some(file("secret")),
        ..server.config(&fresh("files"))
    };
    let store = open(&config, &crate::no_environment).unwrap();
    let error = store.exists(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        told(&error).contains(&file("secret").display().to_string()),
        "{}",
        told(&error)
    );
    write(&file("secret"), &format!("{}\n", server.secret));
    assert!(!store.exists(&name("a")).await.unwrap());

    let profile = format!(
        "[backup]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        server.access, server.secret
    );
    write(&file("credentials"), &profile);
    let config = StoreConfig {
        profile: Some("backup".into()),
        credentials_file: Some(file("credentials")),
        ..server.config(&fresh("profile"))
    };
    assert!(
        !open(&config, &crate::no_environment)
            .unwrap()
            .exists(&name("a"))
            .await
            .unwrap()
    );
}
