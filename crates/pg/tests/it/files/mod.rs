//! What pgkeep reads and writes of PostgreSQL's files, against PostgreSQL itself.

mod control;
mod pages;
mod recovery;
mod walk;

use pgkeep_testkit::Cluster;
use pgkeep_testkit::postgres::Builder;

/// A cluster in which nothing is written but what its test asks for.
fn quiet(major: u16) -> Builder {
    Cluster::builder(major).conf("autovacuum = off\nmax_wal_size = '4GB'")
}
