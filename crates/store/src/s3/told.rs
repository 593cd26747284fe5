//! A server that is a function: what a server may answer, without a network. For tests of what is made of answers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::client::{HttpRequest, HttpResponse};

use super::fault::Fault;
use super::transport::Carrier;

/// From path and query of a request to the body of a 200.
type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// Such a server.
#[derive(Clone)]
pub(crate) struct Told(Arc<Answer>);

impl Told {
    pub(crate) fn new(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Told {
        Told(Arc::new(answer))
    }
}

#[async_trait]
impl Carrier for Told {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let asked = request.uri().path_and_query().map_or("", |asked| asked.as_str());
        Ok(HttpResponse::new(Bytes::from((self.0)(asked)).into()))
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}
