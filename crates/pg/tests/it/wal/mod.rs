//! The WAL walk against real WAL: what `pg_waldump` of the same major shows is what the walker shows.

mod waldump;
mod workload;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use pgkeep_base::facts::DatabaseFilesFact;
use pgkeep_base::{ErrorKind, PgMajor, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::wal::{FactsWalk, Meaning, SegmentFacts, WalkEnd, Walker, meaning, segment_facts};
use pgkeep_testkit::{Cluster, StopMode, every_major};

use self::waldump::Line;

/// What a walk over the files of one timeline showed.
struct Walked {
    lines: Vec<Line>,
    /// Commits by number of the segment in which their record ends.
    commits: BTreeMap<u64, u64>,
    ends: Vec<WalkEnd>,
    names: Vec<WalSegment>,
}

/// Walks from `first` until valid WAL ends or a file is missing.
fn walk(wal: &Path, first: WalSegment, major: PgMajor) -> Walked {
    let mut walker = Walker::new(None);
    let mut found = Walked {
        lines: Vec::new(),
        commits: BTreeMap::new(),
        ends: Vec::new(),
        names: Vec::new(),
    };
    let mut name = first;
    while let Ok(bytes) = std::fs::read(wal.join(name.name())) {
        let (lines, commits) = (&mut found.lines, &mut found.commits);
        let end = walker
            .feed(&bytes, &name, &mut |record| {
                let meaning = meaning(record, major);
                assert!(record.main_data(major).is_some(), "no layout: {record:?}");
                if matches!(meaning, Meaning::Commit { .. }) {
                    *commits.entry(name.size.number_before(record.end)).or_default() += 1;
                }
                lines.push(Line::of(record, &meaning, major.get()));
                ControlFlow::Continue(())
            })
            .unwrap();
        found.names.push(name);
        let over = matches!(end, WalkEnd::Stopped { .. });
        found.ends.push(end);
        if over {
            break;
        }
        name = name.next();
    }
    found
}

/// The facts of the walked segments, by a walk and one by one; both must agree wherever both know.
fn facts(wal: &Path, walked: &Walked) -> Vec<SegmentFacts> {
    let mut walk = FactsWalk::new();
    let mut previous: Option<Vec<u8>> = None;
    let mut all = Vec::new();
    for name in &walked.names {
        let bytes = std::fs::read(wal.join(name.name())).unwrap();
        let facts = walk.feed(&bytes, name).unwrap();
        let alone = segment_facts(&bytes, name, previous.as_deref()).unwrap();
        if !alone.spanning_unknown {
            assert_eq!(alone, facts, "{name}");
        }
        assert_eq!(
            facts.commits,
            walked.commits.get(&name.number).copied().unwrap_or(0),
            "{name}"
        );
        assert_eq!(facts.unreadable_records, 0, "{name}");
        previous = Some(bytes);
        all.push(facts);
    }
    for pair in all.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if !after.drops_unfinished {
            assert_eq!(after.continued_bytes, before.missing_bytes, "{}", after.start);
            let leads = before.unfinished_record.or(before.last_record);
            if let (Some(_), Some(_)) = (after.first_record_prev, leads) {
                assert_eq!(after.first_record_prev, leads, "{}", after.start);
            }
        }
    }
    all
}

/// Walks timeline `timeline` of a cluster and compares with `pg_waldump`; the facts of its segments.
fn compare(cluster: &Cluster, timeline: u32) -> (Walked, Vec<SegmentFacts>) {
    let size = SegmentSize::new(cluster.control("Bytes per WAL segment").parse().unwrap()).unwrap();
    let timeline = TimelineId::new(timeline).unwrap();
    let wal = cluster.data_dir().join("pg_wal");
    let first = workload::segments(cluster, &timeline.hex()).remove(0);
    let major = PgMajor::new(cluster.major()).unwrap();
    let walked = walk(&wal, WalSegment::parse(&first, size).unwrap(), major);
    let dumped = waldump::dump(cluster, &first);
    assert!(dumped.len() > 10, "pg_waldump shows {} records", dumped.len());
    for (ours, theirs) in walked.lines.iter().zip(&dumped) {
        waldump::assert_same(ours, theirs);
    }
    assert_eq!(walked.lines.len(), dumped.len(), "{:?}", walked.ends.last());
    let facts = facts(&wal, &walked);
    (walked, facts)
}

fn expect_kinds(walked: &Walked, kinds: &[&str]) {
    for kind in kinds {
        let found = walked.lines.iter().any(|line| line.says.starts_with(kind));
        assert!(found, "the workload made no {kind:?}");
    }
}

/// Files after the last valid one carry old content under a new name: never taken for what they are called.
fn recycled_segments_are_refused(cluster: &Cluster, last: &WalSegment) {
    let mut refused = 0;
    let mut name = last.next();
    while let Ok(bytes) = std::fs::read(cluster.data_dir().join("pg_wal").join(name.name())) {
        let error = segment_facts(&bytes, &name, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        refused += 1;
        name = name.next();
    }
    assert!(refused > 0, "the workload recycled no segment");
}

every_major! {
    /// Aim: all kinds of record that matter are read as `pg_waldump` reads them, on two timelines and after crashes.
    /// Method: 1 MiB segments; subtransactions, two-phase commits, a restore point, a switch, a message over several
    /// segments, once cut off by a crash; then a promotion, recycled segments and an immediate stop.
    fn reads_like_pg_waldump(major: u16) {
        let mut cluster = workload::start(major, 1);
        let (backup, databases) = (workload::backup_script(major), workload::databases_script(&cluster));
        for script in [workload::TRANSACTIONS, workload::BIG_RECORDS, &backup, &databases] {
            cluster.sql(script);
        }
        let lost = workload::lose_the_end_of_a_record(&mut cluster);
        cluster.sql(workload::TRANSACTIONS_AGAIN);
        cluster.stop(StopMode::Fast);
        let (walked, facts) = compare(&cluster, 1);
        expect_kinds(
            &walked,
            &[
                "COMMIT ",
                "ABORT ",
                "COMMIT_PREPARED ",
                "ABORT_PREPARED ",
                "RESTORE_POINT before the storm",
                "CHECKPOINT_ONLINE ",
                "CHECKPOINT_SHUTDOWN ",
                "BACKUP_END ",
                "SWITCH",
                "PREPARE",
                "OVERWRITE_CONTRECORD ",
                "PARAMETER_CHANGE ",
                "CREATE",
                "DROP dir 1663/",
            ],
        );
        let spans = walked.lines.iter().any(|line| line.total_bytes > 3 << 20);
        assert!(spans, "a record over four segments");
        let point = facts.iter().flat_map(|facts| &facts.restore_points).next().unwrap();
        assert_eq!(point.name, "before the storm");
        let mut copied = facts.iter().flat_map(|facts| &facts.database_files);
        let moved = |fact: &DatabaseFilesFact| fact.copied_from.is_some_and(|from| from.database == fact.directory.database);
        assert!(copied.any(moved), "a database that moved");
        let dropped: Vec<_> = facts.iter().filter(|facts| facts.drops_unfinished).collect();
        assert_eq!(dropped.len(), 1, "lost the record at {lost}");
        assert!(facts.iter().any(|facts| !facts.backup_ends.is_empty()));

        cluster.start_as_standby();
        cluster.promote();
        workload::recycle_segments(&mut cluster);
        cluster.stop(StopMode::Immediate);
        let (walked, facts) = compare(&cluster, 2);
        assert!(
            facts
                .iter()
                .all(|facts| facts.last_page_timeline.get() == 2 || facts.page_timeline.get() == 1)
        );
        let stopped = facts.last().unwrap().stopped.as_deref().unwrap();
        assert!(matches!(walked.ends.last(), Some(WalkEnd::Stopped { .. })), "{stopped}");
        recycled_segments_are_refused(&cluster, walked.names.last().unwrap());
    }

    /// Aim: a promotion in the middle of a segment leaves a segment that begins on the old timeline; images compressed by
    /// any method are stepped over. Method: the default segment size, all methods that the server offers.
    fn a_promotion_begins_on_the_old_timeline(major: u16) {
        let mut cluster = workload::start(major, 16);
        cluster.sql(workload::TRANSACTIONS);
        cluster.sql(&workload::compression_script(&cluster));
        cluster.stop(StopMode::Fast);
        compare(&cluster, 1);
        cluster.start_as_standby();
        cluster.promote();
        cluster.sql(workload::TRANSACTIONS_AGAIN);
        cluster.stop(StopMode::Fast);
        let (walked, facts) = compare(&cluster, 2);
        expect_kinds(&walked, &["END_OF_RECOVERY tli 2; prev tli 1; time "]);
        assert_eq!(facts[0].page_timeline.get(), 1);
        assert_eq!(facts[0].last_page_timeline.get(), 2);
    }
}
