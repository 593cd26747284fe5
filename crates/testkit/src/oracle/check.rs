//! Does a restored cluster hold exactly what the moment promises?
//!
//! A commit of the ledger must be there if it certainly happened up to the moment, must not be there if it certainly
//! happened after it, and may be either in the blink between. Whatever is there forms an unbroken chain.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgkeep_base::Lsn;
use postgres::{Client, NoTls};

use super::bulk;
use super::ledger::{Commit, Kind, Ledger};
use super::row::{GENESIS, Row, made_table};
use crate::postgres::Cluster;

/// The moment that the restored cluster was recovered to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upto {
    /// Everything that was acknowledged must be there.
    All,
    /// Recovered to this LSN, as after replaying all records that begin up to it.
    Lsn(Lsn),
    /// Recovered to this time, inclusive.
    Time(Timestamp),
    /// At least everything up to this LSN; more is welcome. For what was advertised as durable.
    AtLeast(Lsn),
}

/// What a successful check has looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Rows found.
    pub rows: usize,
    /// Commits that had to be there.
    pub required: usize,
    /// Commits that must not be there.
    pub forbidden: usize,
}

impl Upto {
    fn requires(self, commit: &Commit) -> bool {
        match self {
            Upto::All => true,
            Upto::Lsn(lsn) | Upto::AtLeast(lsn) => commit.to_lsn <= lsn,
            Upto::Time(time) => commit.to_time <= time,
        }
    }

    fn forbids(self, commit: &Commit) -> bool {
        match self {
            Upto::All | Upto::AtLeast(_) => false,
            Upto::Lsn(lsn) => commit.from_lsn > lsn,
            Upto::Time(time) => commit.from_time > time,
        }
    }
}

impl Ledger {
    /// Compares a running, restored cluster with the ledger.
    ///
    /// # Errors
    /// The first difference, in words. A cluster from before the oracle's table holds no rows.
    pub fn check(&self, cluster: &Cluster, upto: Upto) -> Result<Checked, String> {
        self.check_at(&cluster.conninfo(), upto)
    }

    pub(super) fn check_at(&self, conninfo: &str, upto: Upto) -> Result<Checked, String> {
        let mut client = Client::connect(conninfo, NoTls).map_err(|error| format!("connect: {error}"))?;
        let rows = read_rows(&mut client)?;
        for chain in rows.values() {
            check_chain(chain)?;
        }
        let made = read_made_tables(&mut client)?;
        let found = |commit: &Commit| rows.get(&commit.writer)?.get(commit.seq.checked_sub(1)? as usize);
        let mut checked = Checked {
            rows: rows.values().map(Vec::len).sum(),
            required: 0,
            forbidden: 0,
        };
        for commit in &self.commits {
            let row = found(commit);
            if let Some(row) = row.filter(|row| row.hash != commit.hash) {
                return Err(format!("{} is {row:?}, the ledger has {commit:?}", name(commit)));
            }
            if upto.requires(commit) {
                checked.required += 1;
                row.ok_or_else(|| format!("I1: {} was acknowledged and is lost: {commit:?}", name(commit)))?;
            }
            if upto.forbids(commit) {
                checked.forbidden += 1;
                row.map_or(Ok(()), |_| {
                    Err(format!("I3: {} is from after {upto:?}: {commit:?}", name(commit)))
                })?;
            }
            if made.contains(&made_table(commit.writer, commit.seq)) != (row.is_some() && commit.kind == Kind::Ddl) {
                return Err(format!("{}: row and table don't agree: {commit:?}", name(commit)));
            }
        }
        self.check_tails(&rows)?;
        bulk::check(&mut client, &rows, &self.commits)?;
        Ok(checked)
    }

    /// What this ledger becomes once `cluster` is the truth: without the commits that are not there, and with those that
    /// are there although nobody had been told, at most one of each writer.
    ///
    /// # Errors
    /// Where the cluster holds anything but beginnings of the writers' chains.
    pub fn settle(&self, cluster: &Cluster) -> Result<Ledger, String> {
        let mut client = Client::connect(&cluster.conninfo(), NoTls).map_err(|error| format!("connect: {error}"))?;
        let rows = read_rows(&mut client)?;
        self.check_tails(&rows)?;
        let made = read_made_tables(&mut client)?;
        let loads = bulk::loads(&mut client)?;
        let (lsn, now) = (cluster.lsn(), Timestamp::now());
        let mut settled = Vec::new();
        for (writer, chain) in &rows {
            check_chain(chain)?;
            let known = self.commits.iter().filter(|commit| commit.writer == *writer);
            let known: Vec<Commit> = known.take(chain.len()).cloned().collect();
            if let Some((commit, row)) = known.iter().zip(chain).find(|(commit, row)| commit.hash != row.hash) {
                return Err(format!("{} is {row:?}, the ledger has {commit:?}", name(commit)));
            }
            let acknowledged = known.len();
            let before = known.last().cloned();
            settled.extend(known);
            for row in &chain[acknowledged..] {
                let kind = match row {
                    _ if made.contains(&row.made_table()) => Kind::Ddl,
                    _ if loads.get(writer) == Some(&row.seq) => Kind::Bulk,
                    _ => Kind::Plain,
                };
                settled.push(Commit {
                    writer: *writer,
                    seq: row.seq,
                    hash: row.hash.clone(),
                    kind,
                    from_lsn: before.as_ref().map_or(Lsn::INVALID, |commit| commit.to_lsn),
                    to_lsn: lsn,
                    from_time: before.as_ref().map_or(Timestamp::MIN, |commit| commit.from_time),
                    to_time: now,
                });
            }
        }
        Ok(Ledger { commits: settled })
    }

    /// Beyond its last acknowledged commit each writer can have had one transaction in flight, not more.
    fn check_tails(&self, rows: &BTreeMap<u32, Vec<Row>>) -> Result<(), String> {
        for (writer, chain) in rows {
            let acknowledged = self.commits.iter().filter(|commit| commit.writer == *writer).count();
            if chain.len() > acknowledged + 1 {
                return Err(format!(
                    "writer {writer} has {} rows, acknowledged were {acknowledged}",
                    chain.len()
                ));
            }
        }
        Ok(())
    }
}

fn name(commit: &Commit) -> String {
    format!("row {} of writer {}", commit.seq, commit.writer)
}

fn read_rows(client: &mut Client) -> Result<BTreeMap<u32, Vec<Row>>, String> {
    let mut chains: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
    let exists: bool = ask(client, "SELECT to_regclass('oracle') IS NOT NULL")?[0].get(0);
    if !exists {
        return Ok(chains);
    }
    // Once by the heap and once by the index, since either could have been restored wrongly.
    let by_index: i64 = ask(client, "SET enable_seqscan = off; SET enable_bitmapscan = off")
        .and_then(|_| ask(client, "SELECT count(*) FROM oracle WHERE writer >= 0"))?[0]
        .get(0);
    ask(
        client,
        "RESET enable_seqscan; SET enable_indexscan = off; SET enable_indexonlyscan = off",
    )?;
    let rows = ask(
        client,
        "SELECT writer, seq, payload, prev, hash, rolled_back FROM oracle ORDER BY writer, seq",
    )?;
    if rows.len() as i64 != by_index {
        return Err(format!("the heap has {} rows, the index {by_index}", rows.len()));
    }
    for row in rows {
        let (writer, seq): (i32, i64) = (row.get(0), row.get(1));
        if row.get(5) {
            return Err(format!("I3: row {seq} of writer {writer} was rolled back and is there"));
        }
        let row = Row {
            writer: writer as u32,
            seq: seq as u64,
            payload: row.get(2),
            prev: row.get(3),
            hash: row.get(4),
        };
        chains.entry(row.writer).or_default().push(row);
    }
    Ok(chains)
}

fn read_made_tables(client: &mut Client) -> Result<BTreeSet<String>, String> {
    let rows = ask(
        client,
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'oracle\\_made\\_%' AND relkind = 'r'",
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(super) fn ask(client: &mut Client, query: &str) -> Result<Vec<postgres::Row>, String> {
    let wrong = |error: postgres::Error| match error.as_db_error() {
        Some(db) => format!("{query}: {}", db.message()),
        None => format!("{query}: {error}"),
    };
    if query.starts_with("SELECT") {
        return client.query(query, &[]).map_err(wrong);
    }
    client.batch_execute(query).map(|()| Vec::new()).map_err(wrong)
}

/// I2: from 1 up without a hole, each naming the hash of the one before, none altered.
fn check_chain(chain: &[Row]) -> Result<(), String> {
    let mut prev = GENESIS;
    for (row, seq) in chain.iter().zip(1..) {
        let Row { writer, seq: found, .. } = row;
        if *found != seq {
            return Err(format!(
                "I2: row {seq} of writer {writer} is missing, row {found} is there"
            ));
        }
        if row.prev != prev || !row.is_sound() {
            return Err(format!(
                "I2: row {seq} of writer {writer} does not follow the one before: {row:?}"
            ));
        }
        prev = &row.hash;
    }
    Ok(())
}
