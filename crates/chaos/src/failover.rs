//! A standby takes over; what becomes of the old primary differs.
//!
//! Whether both archive for a while, or the old one comes back with commits that the failover lost: what was
//! acknowledged on each timeline is kept apart, since a restore may have to bring back either.

use std::fs;

use pgkeep_base::{Lsn, TimelineId};
use pgkeep_testkit::{Cluster, StopMode};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::world::World;

/// What the old primary writes when it goes on by itself: enough for a few segments.
const ALONE: &str = "CREATE TABLE IF NOT EXISTS alone(i int, filler text);
     INSERT INTO alone SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 3000) i";

impl World {
    /// Makes a standby, lets it take over, and lets the writers go on there.
    pub fn fail_over(&mut self, rng: &mut StdRng) {
        let name = format!("standby-{}", self.next_name());
        let standby = self.standby(&name, rng.random_ratio(1, 3));
        self.load(60);
        let way = rng.random_range(0..4);
        match way {
            0 => self.shop.cluster.kill9(),
            // In order: everything reaches the archive and the standby.
            1 => self.shop.cluster.stop(StopMode::Fast),
            _ => {}
        }
        self.stop_oracle();
        self.look();
        let mut old = self.take_over(standby);
        if way >= 2 {
            // Two primaries at once, each of which archives.
            old.sql(ALONE);
            self.load(30);
            let _ = old.try_sql("SELECT pg_switch_wal()");
            self.backup_after_failover();
            old.kill9();
        }
        if way == 3 || way == 0 && rng.random() {
            // It comes back, notices nothing, and pushes what it still has.
            old.start();
            old.sql(ALONE);
            self.load(30);
            old.stop(StopMode::Fast);
        }
        self.dead.push(old);
    }

    fn standby(&mut self, name: &str, archives_too: bool) -> Cluster {
        let source = &self.shop.cluster;
        let dir = self.shop.home().join(name);
        source.base_backup_to(&dir, true);
        let mut standby = self.with_clock(Cluster::adopt_dir(source.major(), dir));
        if archives_too {
            standby.set_conf("archive_mode", "always");
        }
        standby.start();
        standby
    }

    /// Promotes, and makes the heir this installation's server.
    fn take_over(&mut self, mut heir: Cluster) -> Cluster {
        let parent = self.way.timeline();
        heir.promote();
        let timeline = heir.timeline();
        let settled = self
            .ledger(parent)
            .settle(&heir)
            .unwrap_or_else(|wrong| panic!("after a failover: {wrong}"));
        let (left, begin) = fork_of(&heir);
        self.way.fork(left, timeline, begin);
        self.hosts += 1;
        let old = self.replace_server(heir);
        self.start_oracle(Some(settled));
        old
    }

    /// Whoever fails over takes a backup: what streamed last may never have been archived.
    fn backup_after_failover(&mut self) {
        let output = self.act("backup", self.run(["--json", "backup"]));
        if matches!(output.code, Some(0 | 3)) {
            self.claims.backup(&output.json());
        }
    }
}

/// The parent of the timeline that a cluster is on, and where it was left, by the last line of the history.
pub fn fork_of(cluster: &Cluster) -> (TimelineId, Lsn) {
    let path = cluster
        .data_dir()
        .join(format!("pg_wal/{}.history", cluster.timeline().hex()));
    let history = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let last = history
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let mut words = last.split_whitespace();
    let parent = words.next().and_then(|number| TimelineId::new(number.parse().ok()?));
    let fork = words.next().and_then(|lsn| lsn.parse().ok());
    parent.zip(fork).unwrap_or_else(|| panic!("no fork in {history}"))
}
