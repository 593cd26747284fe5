//! What heavy writers do besides: bulk loads that replace each other, vacuums that truncate, an unlogged table.
//!
//! A writer's bulk load deletes its earlier one and copies `BULK_ROWS` new rows in, so that its table shrinks and
//! regrows, in a tablespace of its own where there is one. Invariant: of each writer the rows of its newest load that is
//! there are there, all of them, and no others.

use std::collections::BTreeMap;
use std::io::Write as _;

use postgres::{Client, SimpleQueryMessage};

use super::check::ask;
use super::ledger::{Commit, Kind};
use super::row::Row;

/// Rows of one load: some 300 KiB of WAL.
pub(super) const BULK_ROWS: u32 = 2000;

/// Makes the tables of heavy writers.
pub(super) fn create_tables(client: &mut Client, tablespace: Option<&str>) -> Result<(), postgres::Error> {
    let place = tablespace.map_or_else(String::new, |name| format!(" TABLESPACE {name}"));
    client.batch_execute(&format!(
        "CREATE TABLE oracle_bulk(writer int, seq bigint, n int, filler text, PRIMARY KEY (writer, n)){place};
         CREATE UNLOGGED TABLE oracle_unlogged(writer int, seq bigint){place}"
    ))
}

/// Replaces the writer's earlier load, in the transaction that is open.
pub(super) fn load(client: &mut Client, row: &Row) -> Result<(), postgres::Error> {
    let Row { writer, seq, hash, .. } = row;
    client.batch_execute(&format!("DELETE FROM oracle_bulk WHERE writer = {writer}"))?;
    let mut copy = client.copy_in("COPY oracle_bulk FROM STDIN")?;
    for n in 0..BULK_ROWS {
        // A connection that is lost here is noticed at the end.
        let _ = writeln!(copy, "{writer}\t{seq}\t{n}\t{}", filler(hash, n));
    }
    copy.finish().map(|_| ())
}

fn filler(hash: &str, n: u32) -> String {
    format!("{hash}-{n}")
}

/// Gives back the space of earlier loads.
pub(super) fn vacuum(client: &mut Client) -> Result<Vec<SimpleQueryMessage>, postgres::Error> {
    client.simple_query("VACUUM oracle_bulk")
}

/// Which load of each writer is there, whole and alone.
pub(super) fn loads(client: &mut Client) -> Result<BTreeMap<u32, u64>, String> {
    let exists: bool = ask(client, "SELECT to_regclass('oracle_bulk') IS NOT NULL")?[0].get(0);
    let found = if exists {
        ask(
            client,
            "SELECT b.writer, b.seq, count(*), count(*) FILTER (WHERE b.filler = o.hash || '-' || b.n) \
             FROM oracle_bulk b LEFT JOIN oracle o USING (writer, seq) GROUP BY 1, 2",
        )?
    } else {
        Vec::new()
    };
    let mut loads = BTreeMap::new();
    for row in found {
        let (writer, seq): (i32, i64) = (row.get(0), row.get(1));
        let (all, right): (i64, i64) = (row.get(2), row.get(3));
        if (all, right) != (i64::from(BULK_ROWS), i64::from(BULK_ROWS)) {
            return Err(format!(
                "I2: load {seq} of writer {writer} has {all} rows, {right} of them right"
            ));
        }
        if let Some(other) = loads.insert(writer as u32, seq as u64) {
            return Err(format!("I2: loads {other} and {seq} of writer {writer} are both there"));
        }
    }
    Ok(loads)
}

/// Holds the loads that are there against the rows that are there.
pub(super) fn check(client: &mut Client, rows: &BTreeMap<u32, Vec<Row>>, commits: &[Commit]) -> Result<(), String> {
    let mut loads = loads(client)?;
    for (writer, chain) in rows {
        let known = || commits.iter().filter(|commit| commit.writer == *writer);
        let present = known().filter(|commit| commit.kind == Kind::Bulk && commit.seq <= chain.len() as u64);
        let newest = present.map(|commit| commit.seq).max();
        let load = loads.remove(writer);
        // One that was never acknowledged may be there with its row.
        let acknowledged = known().count() as u64;
        let unknown = load.is_some_and(|seq| seq == acknowledged + 1 && seq == chain.len() as u64);
        if load != newest && !unknown {
            return Err(format!(
                "I2: writer {writer}'s load is {load:?} where {newest:?} must be"
            ));
        }
    }
    match loads.pop_first() {
        Some(load) => Err(format!("I2: a load without its row: {load:?}")),
        None => Ok(()),
    }
}
