//! The scripted life of one cluster per major, which many tests restore moments of.
//!
//! Timeline 1 of a primary: two backups, transactions of every kind, restore points. Its standby is promoted to
//! timeline 2 while the old primary goes on and archives commits that the failover loses; timeline 2 gets a backup;
//! its server is promoted once more, to timeline 3, which has none. Then everything is stopped, and the repository
//! never changes again: who damages it does so in a [`Branch`].
//! What was committed, when and where, is told by PostgreSQL (`pg_waldump`, `pg_xact_commit_timestamp`) and kept here,
//! outside of every cluster: [`Life::path`] is what a restored one is compared with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use jiff::Timestamp;
use pgkeep_base::{Lsn, SegmentSize, TimelineId, WalSegment};
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Run, StopMode};

use crate::shop;

mod branch;

pub use branch::{Branch, Copy, offered};

/// Makes a test of the oldest and one of the newest major out of a function that takes the life: `every_major!` for
/// what is about pgkeep rather than about the major.
macro_rules! oldest_and_newest {
    ($($(#[$doc:meta])* fn $name:ident($life:ident: &Life) $body:block)*) => { $(
        $(#[$doc])*
        mod $name {
            use super::*;
            fn check($life: &Life) $body
            #[test] fn on_14() { check(crate::life::life(14)) }
            #[test] fn on_18() { check(crate::life::life(18)) }
        }
    )* };
}
pub(crate) use oldest_and_newest;

/// Ids of transactions tell where they were committed: below this, before the failover.
const LOST: i64 = 1000;
const SECOND: i64 = 2000;
const THIRD: i64 = 3000;
/// As the fixture has it.
const SEGMENT_BYTES: u32 = 1 << 20;
/// Rows of the table that each transaction changes a part of.
const BULK: i64 = 700;

/// One transaction, as PostgreSQL's own tools tell of it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its row in the table `ledger`.
    pub id: i64,
    /// Its number.
    pub xid: u32,
    /// Start of its commit record.
    pub record: Lsn,
    /// Time in its commit record.
    pub time: Timestamp,
}

/// A repository with three timelines, and the truth about it.
pub struct Life {
    /// The installation; its cluster, the old primary, is stopped.
    pub shop: Shop,
    /// Who was promoted twice; stopped.
    pub heir: Cluster,
    /// By id, which is also by LSN within a timeline.
    commits: Vec<Commit>,
    /// Number and abort record of a transaction that was rolled back, between commits 5 and 6.
    pub aborted: (u32, Lsn),
    /// Records on timeline 1 that end a segment early.
    pub switches: Vec<Lsn>,
    /// Ids of the three backups: full, incremental, on timeline 2.
    pub backups: Vec<String>,
    /// Where timelines 1 and 2 were left.
    pub forks: [Lsn; 2],
}

/// The life of a cluster of `major`; made when first asked for.
pub fn life(major: u16) -> &'static Life {
    static LIVES: [OnceLock<Option<Life>>; 5] = [const { OnceLock::new() }; 5];
    let made = LIVES[usize::from(major - 14)].get_or_init(|| catch_unwind(AssertUnwindSafe(|| live(major))).ok());
    made.as_ref()
        .unwrap_or_else(|| panic!("the life of PostgreSQL {major} could not be made: see its own panic"))
}

fn live(major: u16) -> Life {
    let shop = shop(major)
        .cluster(|cluster| cluster.conf("wal_keep_size = '1GB'\ntrack_commit_timestamp = on\nautovacuum = off"))
        .start();
    let primary = &shop.cluster;
    let start = primary.lsn();
    primary.sql(&format!(
        "CREATE TABLE ledger (id int PRIMARY KEY, note text);
         CREATE TABLE bulk AS SELECT k, 0::bigint AS v FROM generate_series(0, {BULK} - 1) k"
    ));
    let mut backups = Vec::new();
    let aborted = first_timeline(&shop, &mut backups);
    let heir = heir_of(&shop);
    let fork_1 = fail_over(&shop, &heir);
    let mut life = Life {
        aborted: (aborted, Lsn::INVALID),
        backups,
        heir,
        forks: [fork_1; 2],
        switches: Vec::new(),
        commits: Vec::new(),
        shop,
    };
    life.second_timeline();
    life.learn(1, start);
    life.shop.cluster.stop(StopMode::Fast);
    life.third_timeline();
    life.heir.stop(StopMode::Fast);
    life.commits.sort_by_key(|commit| commit.id);
    life.commits.dedup_by_key(|commit| commit.id);
    life
}

/// Commits 1 to 16, of which 8 is committed in two phases; gives the number of one that is rolled back.
fn first_timeline(shop: &Shop, backups: &mut Vec<String>) -> u32 {
    let primary = &shop.cluster;
    commit(primary, [1, 2]);
    backups.push(backup(shop.run(["backup", "--full"])));
    commit(primary, [3, 4]);
    primary.switch_wal();
    commit(primary, [5]);
    let aborted = primary.value("BEGIN; INSERT INTO ledger VALUES (666, 'never'); SELECT txid_current(); ROLLBACK");
    commit(primary, [6]);
    shop.pgkeep(["mark", "alpha"]).ok();
    primary.sql(&format!("BEGIN; {}; PREPARE TRANSACTION 'eight'", statements(8)));
    commit(primary, [7]);
    primary.switch_wal();
    primary.sql("COMMIT PREPARED 'eight'");
    commit(primary, [9]);
    primary.switch_wal();
    backups.push(backup(shop.run(["backup"])));
    for id in 10..16 {
        commit(primary, [id]);
        if id % 2 == 0 {
            primary.switch_wal();
        }
    }
    shop.pgkeep(["mark", "beta"]).ok();
    commit(primary, [16]);
    aborted
}

/// A standby that archives for itself, with a state directory of its own, as another host has.
fn heir_of(shop: &Shop) -> Cluster {
    let mut heir = shop.cluster.standby("heir");
    heir.set_conf("archive_command", &shop.archive_command_of("heir"));
    heir
}

/// Promotes the heir between two commits (17 and 2001) in one segment; the old primary goes on with two more, in that
/// segment and the next, and archives them.
fn fail_over(shop: &Shop, heir: &Cluster) -> Lsn {
    let primary = &shop.cluster;
    commit(primary, [17]);
    heir.catch_up_with(primary);
    assert_eq!(heir.sql("SELECT pg_promote(true, 60)"), "t", "{}", heir.log());
    commit(primary, [LOST + 1]);
    primary.sql("SELECT pg_create_restore_point('gamma')");
    primary.archive_all();
    commit(primary, [LOST + 2]);
    // Proves that time went on after that commit: a checkpoint's time, in whole seconds, may lie before it.
    primary.sql("SELECT pg_create_restore_point('omega')");
    primary.archive_all();
    switch_point(heir, 2)
}

/// Where a timeline's history says that the one before was left.
fn switch_point(cluster: &Cluster, timeline: u32) -> Lsn {
    let history = cluster.data_dir().join(format!("pg_wal/{timeline:08X}.history"));
    let history = std::fs::read_to_string(history).unwrap();
    let last = history.lines().rfind(|line| !line.is_empty()).unwrap();
    last.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Life {
    fn second_timeline(&mut self) {
        let heir = &self.heir;
        commit(heir, [SECOND + 1]);
        heir.archive_all();
        commit(heir, [SECOND + 2]);
        let id = backup(self.run_as_heir(["backup"]));
        self.backups.push(id);
        commit(heir, [SECOND + 3]);
        heir.archive_all();
        commit(heir, [SECOND + 4]);
        heir.archive_all();
        self.learn(2, self.forks[0]);
    }

    fn third_timeline(&mut self) {
        let heir = &mut self.heir;
        heir.stop(StopMode::Fast);
        heir.set_conf("primary_conninfo", "");
        let auto = heir.data_dir().join("postgresql.auto.conf");
        let settings = std::fs::read_to_string(&auto).unwrap();
        let kept: Vec<&str> = settings
            .lines()
            .filter(|line| !line.contains("primary_conninfo"))
            .collect();
        std::fs::write(&auto, kept.join("\n") + "\n").unwrap();
        heir.start_as_standby();
        heir.promote();
        for id in 1..4 {
            commit(heir, [THIRD + id]);
            heir.archive_all();
        }
        self.forks[1] = switch_point(&self.heir, 3);
        self.learn(3, self.forks[1]);
    }

    /// pgkeep on the heir's host.
    pub fn run_as_heir<const N: usize>(&self, args: [&str; N]) -> Run {
        self.shop
            .run(args)
            .env("PGKEEP_STATE_DIR", self.shop.state_dir_of("heir"))
            .env("PGKEEP_CLUSTER__SHOP__CONNECTION", self.heir.conninfo())
    }

    /// Asks PostgreSQL what was committed on a timeline since `from`.
    fn learn(&mut self, timeline: u32, from: Lsn) {
        let cluster = if timeline == 1 { &self.shop.cluster } else { &self.heir };
        let wal = cluster.data_dir().join("pg_wal");
        // So that the last segment exists.
        cluster.sql("CHECKPOINT");
        let (from, to, timeline) = (from.to_string(), cluster.lsn().to_string(), timeline.to_string());
        let dump = [
            "-p",
            wal.to_str().unwrap(),
            "-t",
            &timeline,
            "-s",
            &from,
            "-e",
            &to,
            "-r",
            "Transaction",
        ];
        let records: Vec<Record> = cluster.waldump(dump).lines().filter_map(Record::parse).collect();
        let rows = cluster.sql(
            "SELECT id, xmin, to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC',
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM ledger ORDER BY id",
        );
        for row in rows.lines() {
            let fields: Vec<&str> = row.split('|').collect();
            let xid = fields[1].parse().unwrap();
            let Some(record) = records.iter().find(|record| record.xid == xid && record.commit) else {
                continue;
            };
            self.commits.push(Commit {
                id: fields[0].parse().unwrap(),
                xid,
                record: record.start,
                time: fields[2].parse().unwrap(),
            });
        }
        if timeline == "1" {
            let dump = ["-p", wal.to_str().unwrap(), "-s", &from, "-e", &to, "-r", "XLOG"];
            let records = cluster.waldump(dump);
            let switches = records.lines().filter(|line| line.contains("desc: SWITCH"));
            self.switches = switches.filter_map(lsn_of).collect();
        }
        if let Some(abort) = records
            .iter()
            .find(|record| record.xid == self.aborted.0 && !record.commit)
        {
            self.aborted.1 = abort.start;
        }
    }

    /// What lies on the way to the end of a timeline, in order.
    pub fn path(&self, timeline: u32) -> Vec<&Commit> {
        let on_it = |id: i64| match timeline {
            1 => id < SECOND,
            2 => id < LOST || (SECOND..THIRD).contains(&id),
            _ => !(LOST..=SECOND).contains(&id),
        };
        self.commits.iter().filter(|commit| on_it(commit.id)).collect()
    }

    /// A copy whose own history runs backwards: the segment that recovery stops in is only there on a descendant of its
    /// timeline. It holds [`Life::up_to`] commit 16.
    pub fn copy_that_aimed_too_far(&self, branch: &Branch) -> Copy {
        let switch = self.segment(1, self.forks[0]);
        branch.remove(switch);
        branch.remove(format!("{switch}.partial"));
        let xid = self.commit(17).xid.to_string();
        let options = ["--xid", &xid, "--exclusive", "--action", "promote", "--archive", "on"];
        branch.restore(&options).opened()
    }

    /// A commit by its id.
    #[track_caller]
    pub fn commit(&self, id: i64) -> &Commit {
        let found = self.commits.iter().find(|commit| commit.id == id);
        found.unwrap_or_else(|| panic!("no commit {id} in {:?}", self.commits))
    }

    /// Ids on the way to the end of a timeline, up to and with `last`.
    #[track_caller]
    pub fn up_to(&self, timeline: u32, last: i64) -> Vec<i64> {
        let ids: Vec<i64> = self.path(timeline).iter().map(|commit| commit.id).collect();
        let end = ids.iter().position(|id| *id == last);
        let end = end.unwrap_or_else(|| panic!("no commit {last} on the way to timeline {timeline}: {ids:?}"));
        ids[..=end].to_vec()
    }

    /// The name of the segment in which something lies, under a timeline.
    pub fn segment(&self, timeline: u32, lsn: Lsn) -> WalSegment {
        WalSegment {
            timeline: TimelineId::new(timeline).unwrap(),
            number: lsn.0 / u64::from(SEGMENT_BYTES),
            size: SegmentSize::new(SEGMENT_BYTES).unwrap(),
        }
    }

    /// A copy of configuration and repository, to be damaged.
    pub fn branch(&self) -> Branch {
        Branch::of(&self.shop)
    }

    /// Restores, and starts nothing.
    #[track_caller]
    pub fn restore(&self, options: &[&str]) -> Copy {
        branch::restore(self.shop.cluster.major(), |args| self.shop.run(args), options)
    }

    /// Compares a running cluster with the ids that it must hold, no more and no less.
    #[track_caller]
    pub fn assert_holds(&self, cluster: &Cluster, expected: &[i64]) {
        let rows = cluster.sql("SELECT id FROM ledger WHERE note = 'row ' || id ORDER BY id");
        let found: Vec<i64> = rows.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(found, expected, "{}", cluster.log_of_this_start());
        let bulk = cluster.sql("SELECT count(*), k % 7, min(v), max(v) FROM bulk GROUP BY 2 ORDER BY 2");
        let sum = |rest: i64| expected.iter().filter(|id| **id % 7 == rest).sum::<i64>();
        let line = |rest| format!("{}|{rest}|{sum}|{sum}", BULK / 7, sum = sum(rest));
        assert_eq!(bulk.lines().collect::<Vec<_>>(), (0..7).map(line).collect::<Vec<_>>());
    }
}

/// One transaction for each id.
pub fn commit<const N: usize>(cluster: &Cluster, ids: [i64; N]) {
    for id in ids {
        cluster.sql(&format!("BEGIN; {}; COMMIT", statements(id)));
    }
}

fn statements(id: i64) -> String {
    format!("INSERT INTO ledger VALUES ({id}, 'row {id}'); UPDATE bulk SET v = v + {id} WHERE k % 7 = {id} % 7")
}

/// Takes a backup and gives its id.
#[track_caller]
fn backup(run: Run) -> String {
    let json = run.arg("--json").run().ok().json();
    json["id"].as_str().expect("a backup has an id").to_owned()
}

/// Where the record of a line of `pg_waldump` begins.
fn lsn_of(line: &str) -> Option<Lsn> {
    let rest = &line[line.find("lsn:")? + 4..];
    rest.split(',').next()?.trim().parse().ok()
}

/// A line of `pg_waldump` about a transaction's end.
struct Record {
    xid: u32,
    start: Lsn,
    commit: bool,
}

impl Record {
    fn parse(line: &str) -> Option<Record> {
        let between = |from: &str, to: &str| {
            let rest = &line[line.find(from)? + from.len()..];
            Some(rest[..rest.find(to)?].trim())
        };
        let (start, what) = (lsn_of(line)?, &line[line.find("desc:")? + 5..]);
        let word = what.split_whitespace().next()?;
        let xid = match word {
            "COMMIT" | "ABORT" => between("tx:", ",")?,
            "COMMIT_PREPARED" => between("COMMIT_PREPARED", ":")?,
            _ => return None,
        };
        Some(Record {
            xid: xid.parse().ok()?,
            start,
            commit: word != "ABORT",
        })
    }
}
