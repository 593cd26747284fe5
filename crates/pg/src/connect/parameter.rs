//! Values that go into statements, each with the SQL type that it always has.
//!
//! Invariant: the type is known before the server is asked, so that a statement costs one round trip and leaves
//! nothing open behind it. A prepared statement's late "close" would be answered to nobody, and a FATAL error with it.

use tokio_postgres::types::{ToSql, Type};

/// A value for a statement's `$1`, `$2` ….
pub trait Parameter: Sync {
    /// The value and its SQL type.
    fn typed(&self) -> (&(dyn ToSql + Sync), Type);
}

macro_rules! parameters {
    ($($rust:ty => $sql:ident),* $(,)?) => {
        $( impl Parameter for $rust {
            fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
                (self, Type::$sql)
            }
        } )*
    };
}

parameters! {
    bool => BOOL,
    i32 => INT4,
    i64 => INT8,
    &str => TEXT,
    String => TEXT,
    &[&str] => TEXT_ARRAY,
    Vec<String> => TEXT_ARRAY,
}
