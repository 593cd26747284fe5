//! What is said of an object whose length is not what it must be, by every kind of store.

use std::ops::Range;

use pgkeep_base::Error;

/// More bytes than the caller allows.
pub(crate) fn too_long(bytes: u64, bytes_max: u64) -> Error {
    Error::corrupt(format!(
        "it holds {bytes} bytes, more than the {bytes_max} that it may have"
    ))
}

/// Fewer bytes than the caller knows must be there.
pub(crate) fn cut_short(range: &Range<u64>, bytes: Option<u64>) -> Error {
    let error = Error::corrupt("the object is cut short");
    match bytes {
        Some(bytes) => error.detail(format!("it holds {bytes} bytes, but must reach {}", range.end)),
        None => error,
    }
}
