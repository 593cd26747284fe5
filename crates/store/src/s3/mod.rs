//! S3 and what speaks like it. (Being built.)

use pgkeep_base::{Error, Result};

use crate::config::{Environment, StoreConfig};

/// A bucket, or a prefix in one.
#[derive(Debug)]
pub(crate) struct S3Store {}

impl S3Store {
    pub(crate) fn open(
        config: &StoreConfig,
        _rest: &str,
        _environment: Environment,
    ) -> Result<std::convert::Infallible> {
        Err(Error::unsupported(format!(
            "this version can't open {} yet",
            config.url
        )))
    }
}
