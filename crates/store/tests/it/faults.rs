//! Aim: no answer of a server, however wrong, is taken for more than it proves.
//! Method: the real S3 store against a server on loopback that answers as it is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use pgkeep_base::{ErrorKind, Result};
use pgkeep_store::{Created, Payload, Store, StoreConfig};

use crate::fake::{FOUND, Fake, Reply};
use crate::{name, open_s3, told};

fn config(fake: &Fake) -> StoreConfig {
    StoreConfig {
        endpoint: Some(fake.endpoint.clone()),
        allow_http: true,
        retries: 2,
        ..StoreConfig::at("s3://bucket/some/prefix")
    }
}

fn open(fake: &Fake) -> std::sync::Arc<dyn Store> {
    open_s3(&config(fake), "AKIATEST", "hush-hush")
}

async fn create(fake: &Fake) -> Result<Created> {
    open(fake).create(&name("a/b"), Payload::from("body")).await
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("this must fail").kind()
}

#[tokio::test]
async fn a_create_is_one_signed_conditional_put_with_a_checksum() {
    let fake = Fake::start([Reply::stored()]).await;
    let config = StoreConfig {
        storage_class: Some("STANDARD_IA".into()),
        server_side_encryption: Some("aws:kms".into()),
        kms_key_id: Some("key-1".into()),
        ..config(&fake)
    };
    let store = open_s3(&config, "AKIATEST", "hush-hush");
    assert_eq!(
        store.create(&name("a/b=c+d%2F"), Payload::from("body")).await.unwrap(),
        Created::New
    );
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    let head = seen[0].to_ascii_lowercase();
    assert!(
        seen[0].starts_with("PUT /bucket/some/prefix/a/b%3Dc%2Bd%252F HTTP/1.1\r\n"),
        "{head}"
    );
    for header in [
        "if-none-match: *",
        "x-amz-checksum-sha256: ",
        "x-amz-storage-class: standard_ia",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: key-1",
        "authorization: aws4-hmac-sha256 credential=akiatest/",
        "content-length: 4",
    ] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    assert!(!head.contains("hush"));
}

#[tokio::test]
async fn the_server_is_asked_to_encrypt_with_its_own_key() {
    let fake = Fake::start([Reply::stored()]).await;
    let config = StoreConfig {
        server_side_encryption: Some("AES256".into()),
        ..config(&fake)
    };
    open_s3(&config, "A", "B")
        .create(&name("x"), Payload::default())
        .await
        .unwrap();
    let head = fake.seen()[0].to_ascii_lowercase();
    assert!(head.contains("x-amz-server-side-encryption: aes256"), "{head}");
}

#[tokio::test]
async fn a_taken_name_is_412_and_nothing_else() {
    for look in [
        Reply::found(""),
        Reply::error(403, "AccessDenied"),
        Reply::error(500, "InternalError"),
    ] {
        let fake = Fake::start([Reply::error(412, "PreconditionFailed"), look]).await;
        assert_eq!(create(&fake).await.unwrap(), Created::AlreadyThere);
        assert_eq!(fake.seen().len(), 2);
    }

    for (reply, expected) in [
        (Reply::error(404, "NoSuchKey"), ErrorKind::Unavailable),
        (Reply::error(409, "ConditionalRequestConflict"), ErrorKind::Unavailable),
        (Reply::error(409, "OperationAborted"), ErrorKind::Unavailable),
        (Reply::http(304, &[], ""), ErrorKind::Invalid),
        (Reply::error(403, "AccessDenied"), ErrorKind::Denied),
        (Reply::error(404, "NoSuchBucket"), ErrorKind::Unavailable),
        (Reply::error(501, "NotImplemented"), ErrorKind::Unsupported),
        (Reply::error(400, "InvalidStorageClass"), ErrorKind::Invalid),
    ] {
        let fake = Fake::start([reply.clone()]).await;
        assert_eq!(kind(create(&fake).await), expected, "{reply:?}");
    }
}

/// Aim: a name that is taken although nothing is there, as a server says that has lost its way, is no success.
#[tokio::test]
async fn a_taken_name_with_nothing_there_is_tried_again() {
    let contradiction = || {
        [
            Reply::error(412, "PreconditionFailed"),
            Reply::error(404, "NoSuchKey"),
            Reply::error(404, "NoSuchKey"),
        ]
    };
    let fake = Fake::start(contradiction().into_iter().chain([Reply::stored()])).await;
    assert_eq!(create(&fake).await.unwrap(), Created::New);
    let fake = Fake::start(contradiction().into_iter().cycle().take(9)).await;
    let error = create(&fake).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(told(&error).contains("nothing is there"), "{}", told(&error));
}

#[tokio::test]
async fn a_conflict_is_tried_again() {
    let conflict = || Reply::error(409, "ConditionalRequestConflict");
    let fake = Fake::start([conflict(), conflict(), Reply::stored()]).await;
    assert_eq!(create(&fake).await.unwrap(), Created::New);
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test]
async fn a_success_that_is_none_is_never_believed() {
    let error = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>x</Message></Error>";
    let lies = [
        Reply::http(200, &[("ETag", "\"abc\"")], error),
        Reply::http(200, &[("ETag", "\"abc\"")], "<html>Log in</html>"),
        Reply::http(200, &[], ""),
        Reply::http(200, &[("ETag", "\"\"")], ""),
        Reply::http(204, &[("ETag", "\"abc\"")], ""),
        Reply::http(200, &[("ETag", "\"abc\""), ("x-amz-checksum-sha256", "AAAA")], ""),
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nContent-Length: 50\r\n\r\n<Err".to_vec()),
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nETa".to_vec()),
        Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Reply::Hangup,
    ];
    for lie in lies {
        let fake = Fake::start([lie.clone()]).await;
        assert_eq!(kind(create(&fake).await), ErrorKind::Unavailable, "{lie:?}");
        assert_eq!(fake.seen().len(), 3, "{lie:?} is tried again, but not for ever");
        let fake = Fake::start([lie, Reply::stored()]).await;
        assert_eq!(create(&fake).await.unwrap(), Created::New);
    }
}

#[tokio::test]
async fn an_echoed_checksum_that_fits_is_welcome() {
    // SHA-256 of "body".
    let echo = ("x-amz-checksum-sha256", "Iw2DWNyOiJC0xY3utikS7i8gNXrpKlzIYbmOaP4xrLU=");
    let fake = Fake::start([Reply::http(200, &[("ETag", "\"abc\""), echo], "")]).await;
    let outcome = create(&fake).await;
    let sent = fake.seen()[0]
        .lines()
        .find(|line| line.starts_with("x-amz-checksum-sha256"))
        .map(str::to_owned);
    assert_eq!(
        outcome.map_err(|e| format!("{} sent {sent:?}", told(&e))),
        Ok(Created::New)
    );
}

#[tokio::test]
async fn a_lost_reply_ends_in_already_there() {
    let fake = Fake::start([Reply::Hangup, Reply::error(412, "PreconditionFailed")]).await;
    assert_eq!(create(&fake).await.unwrap(), Created::AlreadyThere);
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    for trouble in [
        Reply::error(503, "SlowDown"),
        Reply::error(500, "InternalError"),
        Reply::error(429, "TooManyRequests"),
        Reply::error(400, "RequestTimeout"),
        Reply::error(400, "BadDigest"),
    ] {
        let fake = Fake::start([trouble.clone(), Reply::stored()]).await;
        assert_eq!(create(&fake).await.unwrap(), Created::New, "{trouble:?}");
        let fake = Fake::start([trouble, Reply::found("hello")]).await;
        assert_eq!(open(&fake).read(&name("a"), 9).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn absence_is_believed_only_as_no_such_key() {
    let fake = Fake::start([Reply::error(404, "NoSuchKey")]).await;
    let store = open(&fake);
    assert!(!store.exists(&name("a")).await.unwrap());
    assert_eq!(kind(store.read(&name("a"), 9).await), ErrorKind::NotFound);
    assert_eq!(kind(store.read_range(&name("a"), 0..1).await), ErrorKind::NotFound);
    assert_eq!(kind(store.stat(&name("a")).await), ErrorKind::NotFound);
    store.delete(&name("a")).await.unwrap();

    for reply in [
        Reply::error(404, "NoSuchBucket"),
        Reply::http(404, &[], "<html>nginx</html>"),
        Reply::http(404, &[], ""),
        Reply::error(500, "InternalError"),
    ] {
        let fake = Fake::start([reply.clone()]).await;
        let store = open(&fake);
        assert_eq!(
            kind(store.exists(&name("a")).await),
            ErrorKind::Unavailable,
            "{reply:?}"
        );
        assert_eq!(
            kind(store.read(&name("a"), 9).await),
            ErrorKind::Unavailable,
            "{reply:?}"
        );
        assert_eq!(
            kind(store.delete(&name("a")).await),
            ErrorKind::Unavailable,
            "{reply:?}"
        );
    }

    let fake = Fake::start([Reply::error(403, "AccessDenied")]).await;
    assert_eq!(kind(open(&fake).exists(&name("a")).await), ErrorKind::Denied);
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_read_again_and_never_returned() {
    let cut = |declared: usize, body: &str| {
        let head = FOUND.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {declared}\r\n{head}\r\n{body}").into_bytes())
    };
    let fake = Fake::start([cut(10, "0123"), Reply::found("0123456789")]).await;
    assert_eq!(open(&fake).read(&name("a"), 99).await.unwrap(), "0123456789");

    let fake = Fake::start([cut(10, "0123")]).await;
    assert_eq!(kind(open(&fake).read(&name("a"), 99).await), ErrorKind::Unavailable);
    assert_eq!(fake.seen().len(), 3);

    let head = FOUND.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let no_length = Reply::Bytes(format!("HTTP/1.1 200 OK\r\n{head}\r\n0123").into_bytes());
    let fake = Fake::start([no_length]).await;
    assert_eq!(kind(open(&fake).read(&name("a"), 99).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_range_is_exact_or_an_error() {
    let part = |range: &str, body: &str| {
        let mut headers = FOUND.to_vec();
        headers.push(("Content-Range", range));
        Reply::http(206, &headers, body)
    };
    let read = async |reply: Reply| {
        let fake = Fake::start([reply]).await;
        open(&fake).read_range(&name("a"), 2..6).await
    };
    assert_eq!(read(part("bytes 2-5/10", "2345")).await.unwrap(), "2345");
    assert_eq!(kind(read(part("bytes 2-3/4", "23")).await), ErrorKind::Corrupt);
    assert_eq!(kind(read(Reply::error(416, "InvalidRange")).await), ErrorKind::Corrupt);
    assert_eq!(kind(read(part("bytes 0-3/10", "0123")).await), ErrorKind::Unavailable);
    assert_eq!(kind(read(Reply::found("0123456789")).await), ErrorKind::Unavailable);
    let short: Result<Bytes> = read(part("bytes 2-5/10", "234")).await;
    assert_eq!(kind(short), ErrorKind::Corrupt);
}

#[tokio::test]
async fn an_object_beyond_the_limit_is_refused_before_its_body() {
    let fake = Fake::start([Reply::found("0123456789")]).await;
    let error = open(&fake).read(&name("a"), 9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(told(&error).contains("10 bytes"), "{}", told(&error));
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_store_that_falls_silent_is_given_up_in_time() {
    let config = |fake: &Fake| StoreConfig {
        progress_timeout_s: 1,
        retries: 1,
        ..config(fake)
    };
    let head = FOUND.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n{head}\r\n01234").into_bytes();

    let fake = Fake::start([Reply::Stall(Vec::new())]).await;
    let start = Instant::now();
    let large: Payload = vec![7; 32 << 20].into();
    let error = open_s3(&config(&fake), "A", "B")
        .create(&name("a"), large)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(told(&error).contains("not a byte"), "{}", told(&error));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());

    let fake = Fake::start([Reply::Stall(half), Reply::found("0123456789")]).await;
    let read = open_s3(&config(&fake), "A", "B").read(&name("a"), 99).await.unwrap();
    assert_eq!(read, "0123456789");
}

#[tokio::test]
async fn a_request_has_a_last_moment() {
    let fake = Fake::start([Reply::Stall(Vec::new())]).await;
    let config = StoreConfig {
        request_timeout_s: 1,
        retries: 0,
        ..config(&fake)
    };
    let error = open_s3(&config, "A", "B").read(&name("a"), 9).await.unwrap_err();
    assert!(told(&error).contains("not done within 1 s"), "{}", told(&error));
}

fn page(keys: &[&str], token: Option<&str>) -> String {
    let contents: String = keys
        .iter()
        .map(|key| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-09-01T10:00:00.000Z</LastModified>\
                 <ETag>\"x\"</ETag><Size>5</Size></Contents>"
            )
        })
        .collect();
    let more = match token {
        Some(token) => format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"),
        None => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>bucket</Name>{more}{contents}</ListBucketResult>"
    )
}

async fn list(fake: &Fake) -> Result<Vec<String>> {
    let store = open(fake);
    let names = store.list("d", None).map_ok(|meta| meta.name.to_string());
    names.try_collect().await
}

#[tokio::test]
async fn a_listing_goes_on_to_its_end_and_shows_only_our_names() {
    let first = page(
        &[
            "some/prefix/d/1",
            "some/prefix/d/with space",
            "some/prefix/d/",
            "some/prefix/d/folder/",
            "some/prefix/d//x",
            "some/prefix/d/&#10;",
        ],
        Some("go-on"),
    );
    let second = page(&["some/prefix/d/2", "elsewhere/d/3"], None);
    let fake = Fake::start([Reply::http(200, &[], &first), Reply::http(200, &[], &second)]).await;
    assert_eq!(list(&fake).await.unwrap(), ["d/1", "d/2"]);
    let seen = fake.seen();
    assert!(seen[0].contains("prefix=some%2Fprefix%2Fd%2F"), "{}", seen[0]);
    assert!(seen[1].contains("continuation-token=go-on"), "{}", seen[1]);
}

#[tokio::test]
async fn a_listing_that_goes_in_circles_ends() {
    let circle = page(&["some/prefix/d/1"], Some("again"));
    let fake = Fake::start([Reply::http(200, &[], &circle)]).await;
    assert_eq!(kind(list(&fake).await), ErrorKind::Unavailable);
    let directories = open(&fake).list_directories("d").await;
    assert_eq!(kind(directories), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_listing_that_is_not_whole_is_never_taken_for_a_short_one() {
    let whole = page(&["some/prefix/d/1"], None);
    let endless = whole.replace("<IsTruncated>false", "<IsTruncated>true");
    for body in [
        &whole[..whole.len() - 30],
        "",
        "<Error><Code>InternalError</Code></Error>",
        "<html></html>",
        &endless,
    ] {
        let fake = Fake::start([Reply::http(200, &[], body)]).await;
        assert_eq!(kind(list(&fake).await), ErrorKind::Unavailable, "{body}");
        let fake = Fake::start([Reply::http(200, &[], body), Reply::http(200, &[], &whole)]).await;
        assert_eq!(list(&fake).await.unwrap(), ["d/1"]);
    }
    let fake = Fake::start([Reply::error(404, "NoSuchBucket")]).await;
    assert_eq!(kind(list(&fake).await), ErrorKind::Unavailable);
    let fake = Fake::start([Reply::error(403, "AccessDenied")]).await;
    assert_eq!(kind(list(&fake).await), ErrorKind::Denied);
}

#[tokio::test]
async fn errors_name_the_store_and_the_object_and_no_secret() {
    let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>no match</Message>\
                <StringToSign>secret-ish</StringToSign></Error>";
    let fake = Fake::start([Reply::http(403, &[], body)]).await;
    let text = told(&create(&fake).await.unwrap_err());
    for part in [
        "a/b",
        "s3://bucket/some/prefix",
        "SignatureDoesNotMatch",
        "AWS_SECRET_ACCESS_KEY in the environment",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(
        !text.contains("hush") && !text.contains("secret-ish") && !text.contains("AKIATEST"),
        "{text}"
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let config = StoreConfig {
        endpoint: Some(endpoint.clone()),
        allow_http: true,
        retries: 1,
        ..StoreConfig::at("s3://bucket")
    };
    let error = open_s3(&config, "A", "B").exists(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        told(&error).contains(&endpoint) && told(&error).contains("2 attempts"),
        "{}",
        told(&error)
    );
}

#[tokio::test]
async fn the_machines_own_role_is_asked_for_and_its_absence_is_told() {
    let fake = Fake::start([Reply::error(404, "NoSuchKey")]).await;
    let keys = r#"{"Code":"Success","AccessKeyId":"ROLEKEY","SecretAccessKey":"hush","Token":"t",
        "Expiration":"2099-01-01T00:00:00Z","Type":"AWS-HMAC","LastUpdated":"2026-01-01T00:00:00Z"}"#;
    let metadata = Fake::start([
        Reply::http(200, &[], "token"),
        Reply::http(200, &[], "role-name"),
        Reply::http(200, &[], keys),
    ])
    .await;
    let open = |metadata: String| {
        let environment = move |name: &str| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| metadata.clone());
        pgkeep_store::open(&config(&fake), &environment).unwrap()
    };
    assert!(!open(metadata.endpoint.clone()).exists(&name("a")).await.unwrap());
    assert!(fake.seen()[0].contains("Credential=ROLEKEY/"), "{}", fake.seen()[0]);

    let none = Fake::start([Reply::http(404, &[], "")]).await;
    let error = open(none.endpoint.clone()).exists(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        told(&error).contains("no credentials") && told(&error).contains("machine's own role"),
        "{}",
        told(&error)
    );
    assert_eq!(none.seen().len(), 1);
}
