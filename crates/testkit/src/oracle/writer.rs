//! One writer: a thread with a session of its own that survives crashes of the server.
//!
//! Invariant: it never writes row n + 1 before it knows that row n is committed. After a lost connection it looks what
//! became of the transaction in flight, and panics if the server has lost or altered what it had acknowledged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::Lsn;
use postgres::{Client, NoTls, SimpleQueryMessage};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::bulk;
use super::ledger::{Commit, Kind, Ledger, LedgerFile};
use super::row::{GENESIS, Row, payload};

/// Tables that one writer may make, so that the catalogue stays small.
const TABLES_MAX: u32 = 40;

/// What all writers of an oracle share.
#[derive(Debug)]
pub(super) struct Shared {
    conninfo: String,
    ledger: LedgerFile,
    pause: Duration,
    heavy: bool,
    stopping: AtomicBool,
    commits: AtomicU64,
}

impl Shared {
    pub(super) fn new(conninfo: String, ledger: &Path, pause: Duration, heavy: bool) -> Shared {
        let ledger = LedgerFile::create(ledger);
        Shared {
            conninfo,
            ledger,
            pause,
            heavy,
            stopping: AtomicBool::new(false),
            commits: AtomicU64::new(0),
        }
    }

    /// What an earlier oracle was told belongs to this one's ledger too.
    pub(super) fn begin_with(&self, before: &Ledger) {
        self.ledger.begin_with(before.commits());
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    number: u32,
    rng: StdRng,
    shared: Arc<Shared>,
    /// The last row known to be committed.
    seq: u64,
    hash: String,
    lsn: Lsn,
    tables: u32,
    two_phase: bool,
}

/// A row on its way: committed once the server says so.
struct Attempt {
    row: Row,
    kind: Kind,
    begun: Timestamp,
}

impl Writer {
    /// `before` is the last commit that it made in an earlier life.
    pub(super) fn new(number: u32, seed: u64, shared: Arc<Shared>, before: Option<&Commit>) -> Writer {
        Writer {
            number,
            rng: StdRng::seed_from_u64(seed ^ u64::from(number) << 32),
            shared,
            seq: before.map_or(0, |commit| commit.seq),
            hash: before.map_or_else(|| GENESIS.to_owned(), |commit| commit.hash.clone()),
            lsn: before.map_or(Lsn(0), |commit| commit.to_lsn),
            tables: 0,
            two_phase: true,
        }
    }

    /// Writes until asked to stop.
    pub(super) fn write(mut self) {
        let mut session = None;
        let mut unknown: Option<Attempt> = None;
        while !self.shared.stopping() {
            let Some(client) = session.as_mut() else {
                session = self.connect(&mut unknown);
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let attempt = self.attempt();
            let roll_back = self.rng.random_ratio(1, 10);
            match self.run(client, &attempt, roll_back) {
                Ok(Some((from, to))) => {
                    let bulk = attempt.kind == Kind::Bulk;
                    self.acknowledged(attempt, from, to);
                    // A session that is lost here has nothing in flight, and the next transaction notices.
                    let _ = (bulk && self.rng.random()).then(|| bulk::vacuum(client));
                }
                Ok(None) => {}
                // Of a transaction that was not to be committed nothing can be unknown.
                Err(_) => {
                    unknown = (!roll_back).then_some(attempt);
                    session = None;
                }
            }
            std::thread::sleep(self.shared.pause);
        }
    }

    fn attempt(&mut self) -> Attempt {
        let row = Row::new(self.number, self.seq + 1, &self.hash, payload(&mut self.rng));
        let kind = match self.rng.random_range(0..100) {
            0..5 if self.two_phase => Kind::Prepared,
            5..7 if self.tables < TABLES_MAX => Kind::Ddl,
            7 if self.shared.heavy => Kind::Bulk,
            _ => Kind::Plain,
        };
        Attempt {
            row,
            kind,
            begun: Timestamp::now(),
        }
    }

    /// Runs the transaction: the LSNs before and after its commit, or nothing if it was rolled back.
    fn run(
        &self,
        client: &mut Client,
        attempt: &Attempt,
        roll_back: bool,
    ) -> Result<Option<(Lsn, Lsn)>, postgres::Error> {
        const LSN: &str = "SELECT pg_current_wal_insert_lsn()";
        let row = &attempt.row;
        let mut work = format!("BEGIN; {}", row.insert(roll_back));
        if self.shared.heavy && row.seq.is_multiple_of(20) {
            work += &format!("; INSERT INTO oracle_unlogged VALUES ({}, {})", row.writer, row.seq);
        }
        if attempt.kind == Kind::Ddl {
            work += &format!(
                "; CREATE TABLE {} AS SELECT '{}'::text AS hash",
                row.made_table(),
                row.hash
            );
        }
        let end = if roll_back { "ROLLBACK" } else { "COMMIT" };
        let answer = if attempt.kind == Kind::Bulk {
            client.simple_query(&work)?;
            bulk::load(client, row)?;
            client.simple_query(&format!("{LSN}; {end}; {LSN}"))?
        } else if attempt.kind == Kind::Prepared {
            let name = self.prepared_name();
            client.simple_query(&format!("{work}; PREPARE TRANSACTION '{name}'"))?;
            let mut lsns = client.simple_query(LSN)?;
            client.simple_query(&format!("{end} PREPARED '{name}'"))?;
            lsns.extend(client.simple_query(LSN)?);
            lsns
        } else {
            client.simple_query(&format!("{work}; {LSN}; {end}; {LSN}"))?
        };
        let lsns: Vec<Lsn> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                _ => None,
            })
            .collect();
        Ok((!roll_back).then(|| (lsns[0], lsns[1])))
    }

    fn acknowledged(&mut self, attempt: Attempt, from_lsn: Lsn, to_lsn: Lsn) {
        let Attempt { row, kind, begun } = attempt;
        self.tables += u32::from(kind == Kind::Ddl);
        (self.seq, self.hash, self.lsn) = (row.seq, row.hash.clone(), to_lsn);
        let (writer, seq, hash) = (row.writer, row.seq, row.hash);
        let (from_time, to_time) = (begun, Timestamp::now());
        let commit = Commit {
            writer,
            seq,
            hash,
            kind,
            from_lsn,
            to_lsn,
            from_time,
            to_time,
        };
        self.shared.ledger.append(&commit);
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// A session, once the server gives one, with the fate of the transaction in flight resolved.
    fn connect(&mut self, unknown: &mut Option<Attempt>) -> Option<Client> {
        let mut client = Client::connect(&self.shared.conninfo, NoTls).ok()?;
        let prepared: i64 = client
            .query_one("SELECT current_setting('max_prepared_transactions')::bigint", &[])
            .ok()?
            .get(0);
        self.two_phase = prepared > 0;
        let pending = client
            .query(
                "SELECT 1 FROM pg_prepared_xacts WHERE gid = $1",
                &[&self.prepared_name()],
            )
            .ok()?;
        if !pending.is_empty() {
            client
                .batch_execute(&format!("ROLLBACK PREPARED '{}'", self.prepared_name()))
                .ok()?;
        }
        let newest = "SELECT seq, hash FROM oracle WHERE writer = $1 ORDER BY seq DESC LIMIT 1";
        let found = client.query_opt(newest, &[&(self.number as i32)]).ok()?;
        let lsn: String = client
            .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
            .ok()?
            .get(0);
        let lsn = lsn.parse().expect("PostgreSQL's own LSN");
        let (seq, hash) = found.map_or((0, GENESIS.to_owned()), |row| (row.get::<_, i64>(0) as u64, row.get(1)));
        if let Some(attempt) = unknown
            .take()
            .filter(|attempt| (attempt.row.seq, &attempt.row.hash) == (seq, &hash))
        {
            let from = self.lsn;
            self.acknowledged(attempt, from, lsn);
        }
        assert_eq!(
            (seq, &hash),
            (self.seq, &self.hash),
            "writer {}: the running server lost or altered what it had acknowledged",
            self.number
        );
        Some(client)
    }

    fn prepared_name(&self) -> String {
        format!("oracle-{}", self.number)
    }
}
