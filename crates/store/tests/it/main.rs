//! Tests of the store room from outside: local disks, a real S3 server, and an S3 server that lies.
//!
//! The real one is named by `PGKEEP_TEST_S3`; see `real_s3.rs`. Nothing else leaves this process.

mod fake;
mod faults;
mod local;
mod real_s3;

use std::sync::Arc;

use pgkeep_store::{ObjectName, Store, StoreConfig, open};

/// An environment in which nothing is set.
fn no_environment(_: &str) -> Option<String> {
    None
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).expect("a test uses legal names")
}

/// Opens an S3 store with keys from the environment lookup, as most people give them.
fn open_s3(config: &StoreConfig, access: &str, secret: &str) -> Arc<dyn Store> {
    let (access, secret) = (access.to_owned(), secret.to_owned());
    let environment = move |variable: &str| match variable {
        "AWS_ACCESS_KEY_ID" => Some(access.clone()),
        "AWS_SECRET_ACCESS_KEY" => Some(secret.clone()),
        _ => None,
    };
    open(config, &environment).expect("the configuration is right")
}

/// The whole error as a person reads it.
fn told(error: &pgkeep_base::Error) -> String {
    format!(
        "{error}: {} (hint: {})",
        error.detail_text().unwrap_or_default(),
        error.hint_text().unwrap_or_default()
    )
}
