//! Target: what an S3 server answers when it is asked for a listing.
//!
//! An input that begins with `<` is a page, as it is. Any other is a list of keys, one to a line, which somebody put into
//! the bucket; they are shown as a server would show them, on two pages, and what is ours among them must come out: no
//! key can hide another, or be taken for one.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};

use futures::TryStreamExt;
use pgkeep_store::{ObjectName, Store, StoreConfig, open_told};
use tokio::runtime::Runtime;

/// What is listed, in a bucket's prefix [`PREFIX`].
const DIRECTORY: &str = "wal";
const PREFIX: &str = "p/";
/// The page behind the last.
const EMPTY: &str = "<ListBucketResult></ListBucketResult>";

struct Bucket {
    runtime: Runtime,
    store: Arc<dyn Store>,
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

static BUCKET: LazyLock<Mutex<Bucket>> = LazyLock::new(|| {
    let answers = Arc::new(Mutex::new(VecDeque::<Vec<u8>>::new()));
    let left = Arc::clone(&answers);
    let answer = move |_: &str| {
        left.lock()
            .expect("it is held for a moment")
            .pop_front()
            .unwrap_or_else(|| EMPTY.into())
    };
    let config = StoreConfig {
        retries: 0,
        ..StoreConfig::at("s3://bucket/p")
    };
    let keys = |name: &str| {
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
            .contains(&name)
            .then(|| "x".to_owned())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    Mutex::new(Bucket {
        runtime: runtime.expect("a runtime of this thread alone"),
        store: open_told(&config, &keys, answer).expect("a bucket"),
        answers,
    })
});

impl Bucket {
    fn answer(&self, pages: &[Vec<u8>]) {
        *self.answers.lock().expect("it is held for a moment") = pages.iter().cloned().collect();
    }

    /// The names in the directory behind `after` that these pages show.
    fn names(&self, pages: &[Vec<u8>], after: Option<&ObjectName>) -> Option<Vec<ObjectName>> {
        self.answer(pages);
        let names = self.store.list(DIRECTORY, after).map_ok(|meta| meta.name);
        self.runtime.block_on(names.try_collect()).ok()
    }

    fn directories(&self, pages: &[Vec<u8>]) -> Option<Vec<String>> {
        self.answer(pages);
        self.runtime.block_on(self.store.list_directories(DIRECTORY)).ok()
    }
}

pub fn s3_listing(bytes: &[u8]) -> bool {
    let bucket = BUCKET.lock().expect("no target broke before");
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('<') => listed(&bucket, text),
        _ => answered(&bucket, bytes),
    }
}

/// Whatever a server says, only names of ours come out, from where they were asked for.
fn answered(bucket: &Bucket, page: &[u8]) -> bool {
    let after = ObjectName::new("wal/b").expect("a name");
    let pages = [page.to_vec()];
    let names = bucket.names(&pages, Some(&after));
    for name in names.iter().flatten() {
        assert!(name.is_below(DIRECTORY) && *name > after, "{name}");
    }
    let directories = bucket.directories(&pages);
    for directory in directories.iter().flatten() {
        assert!(
            !directory.contains('/') && ObjectName::new(directory).is_ok(),
            "{directory}"
        );
    }
    names.is_some() || directories.is_some()
}

/// The first line is where the listing begins, if it is a name.
fn listed(bucket: &Bucket, text: &str) -> bool {
    // XML knows no other control characters.
    let keys: Vec<&str> = text.lines().filter(|key| !key.chars().any(char::is_control)).collect();
    let after = keys.first().and_then(|first| ObjectName::new(*first).ok());
    let ours = keys
        .iter()
        .filter_map(|key| ObjectName::new(key.strip_prefix(PREFIX)?).ok());
    let ours: Vec<ObjectName> = ours.collect();
    let below = ours.iter().filter(|name| name.is_below(DIRECTORY));
    let expected: Vec<ObjectName> = below.filter(|name| Some(*name) > after.as_ref()).cloned().collect();
    let shown = bucket.names(&pages(&keys, object), after.as_ref());
    assert_eq!(shown.as_ref(), Some(&expected));
    let mut inside: Vec<String> = ours
        .iter()
        .filter(|name| name.directory() == DIRECTORY)
        .map(|name| name.file_name().to_owned())
        .collect();
    inside.sort();
    inside.dedup();
    assert_eq!(bucket.directories(&pages(&keys, prefix)), Some(inside));
    !expected.is_empty()
}

/// Two pages of these keys.
fn pages(keys: &[&str], entry: fn(&str) -> String) -> [Vec<u8>; 2] {
    let (first, second) = keys.split_at(keys.len() / 2);
    let entries = |keys: &[&str]| keys.iter().map(|key| entry(&escaped(key))).collect::<String>();
    let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>more</NextContinuationToken>";
    [
        format!("<ListBucketResult>{more}{}</ListBucketResult>", entries(first)).into(),
        format!("<ListBucketResult>{}</ListBucketResult>\n", entries(second)).into(),
    ]
}

fn object(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2026-11-20T10:15:12.000Z</LastModified><ETag>\"x\"</ETag><Size>5</Size>\
         </Contents>"
    )
}

fn prefix(key: &str) -> String {
    format!("<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>")
}

fn escaped(key: &str) -> String {
    key.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
