//! The body of an object in several parts, so that a header and a pack need not be copied together.

use std::sync::Arc;

use bytes::Bytes;

/// A body to be written. Cloning copies no bytes.
#[derive(Clone, Default)]
pub struct Payload(Arc<[Bytes]>);

impl Payload {
    /// The length of the whole body.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum()
    }

    /// The parts in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.0
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes in {} parts)", self.bytes(), self.0.len())
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Payload {
        Payload(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(parts: Vec<Bytes>) -> Payload {
        parts.into_iter().collect()
    }
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Payload {
        Payload::from_iter([body])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(body: Vec<u8>) -> Payload {
        Bytes::from(body).into()
    }
}

impl From<String> for Payload {
    fn from(body: String) -> Payload {
        Bytes::from(body).into()
    }
}

impl From<&'static [u8]> for Payload {
    fn from(body: &'static [u8]) -> Payload {
        Bytes::from_static(body).into()
    }
}

impl From<&'static str> for Payload {
    fn from(body: &'static str) -> Payload {
        body.as_bytes().into()
    }
}
