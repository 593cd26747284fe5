//! PostgreSQL's clock values as timestamps.
//!
//! `TimestampTz` counts microseconds from 2000-01-01 UTC (`src/include/datatype/timestamp.h`); `pg_time_t` counts
//! seconds from 1970-01-01 UTC (`src/include/pgtime.h`).

use jiff::Timestamp;

const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// A `TimestampTz` from a WAL record; `None` outside the years that a timestamp can have.
pub fn from_timestamptz(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds.checked_add(POSTGRES_EPOCH_SECONDS * 1_000_000)?).ok()
}

/// The `TimestampTz` of a timestamp, rounded down to a microsecond.
pub fn to_timestamptz(time: Timestamp) -> i64 {
    time.as_microsecond() - POSTGRES_EPOCH_SECONDS * 1_000_000
}

/// A `pg_time_t`, such as a checkpoint's time.
pub fn from_pg_time(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postgres_epoch_is_the_year_2000() {
        let time = from_timestamptz(0).unwrap();
        assert_eq!(time.to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(to_timestamptz(time), 0);
        assert_eq!(from_timestamptz(i64::MAX), None);
    }
}
