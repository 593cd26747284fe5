//! `pg_waldump`'s lines, and a record of ours in the same words.

use jiff::Timestamp;
use pgkeep_base::Lsn;
use pgkeep_pg::wal::{DatabaseDirectory, Meaning, Record};
use pgkeep_testkit::Cluster;

use super::workload;

const RMGRS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// One record. `says` is how `pg_waldump`'s description begins, as far as we read it; empty if we don't.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub rmgr: String,
    pub total_bytes: u32,
    pub xid: u32,
    pub lsn: Lsn,
    pub prev: Lsn,
    pub says: String,
}

impl Line {
    pub fn of(record: &Record, meaning: &Meaning, major: u16) -> Line {
        Line {
            rmgr: RMGRS[record.rmgr as usize].into(),
            total_bytes: record.total_bytes,
            xid: record.xid,
            lsn: record.start,
            prev: record.prev,
            says: says(meaning, major),
        }
    }

    /// Reads `rmgr: Heap  len (rec/tot):  54/  150, tx:  7, lsn: 0/01500028, prev 0/01500000, desc: INSERT off 1 …`.
    fn parse(text: &str) -> Line {
        let field = |from: &str, to: &str| -> &str {
            let rest = text
                .split_once(from)
                .unwrap_or_else(|| panic!("{from:?} in {text:?}"))
                .1;
            rest.split_once(to).map_or(rest, |(value, _)| value).trim()
        };
        Line {
            rmgr: field("rmgr: ", " len").into(),
            total_bytes: field("(rec/tot):", ", tx")
                .split_once('/')
                .unwrap()
                .1
                .trim()
                .parse()
                .unwrap(),
            xid: field("tx:", ", lsn").parse().unwrap(),
            lsn: field("lsn: ", ", prev").parse().unwrap(),
            prev: field(", prev ", ", desc").parse().unwrap(),
            says: text.split_once("desc: ").unwrap().1.trim().into(),
        }
    }
}

/// What `pg_waldump` shows from the segment `first` to the end of valid WAL.
pub fn dump(cluster: &Cluster, first: &str) -> Vec<Line> {
    let last = workload::segments(cluster, &first[..8]).pop().unwrap();
    let waldump = cluster
        .program("pg_waldump")
        .arg("-p")
        .arg(cluster.data_dir().join("pg_wal"));
    // It ends with an error where valid WAL ends.
    let output = waldump.args([first, &last]).run();
    output
        .stdout
        .lines()
        .filter(|line| line.starts_with("rmgr:"))
        .map(Line::parse)
        .collect()
}

/// The same record, and the same words where we have any.
pub fn assert_same(ours: &Line, theirs: &Line) {
    let plain = |line: &Line| Line {
        says: String::new(),
        ..line.clone()
    };
    assert_eq!(plain(ours), plain(theirs), "{}", theirs.says);
    assert!(
        theirs.says.starts_with(&ours.says),
        "{:?} is {:?}",
        ours.says,
        theirs.says
    );
    let known = [
        "COMMIT",
        "ABORT",
        "PREPARE",
        "RESTORE_POINT",
        "CHECKPOINT",
        "END_OF_RECOVERY",
        "BACKUP_END",
        "SWITCH",
        "PARAMETER_CHANGE",
        "OVERWRITE_CONTRECORD",
    ];
    let says = |word: &str| theirs.says.starts_with(word);
    let matters = match theirs.rmgr.as_str() {
        "XLOG" | "Transaction" => known.iter().any(|word| says(word)),
        "Tablespace" => says("CREATE"),
        "Database" => !says("CREATE_WAL_LOG"),
        _ => false,
    };
    assert_eq!(matters, !ours.says.is_empty(), "{:?}", theirs.says);
}

fn directory(directory: &DatabaseDirectory) -> String {
    format!("{}/{}", directory.tablespace, directory.database)
}

fn says(meaning: &Meaning, major: u16) -> String {
    let at = |time: &Timestamp| time.strftime("%Y-%m-%d %H:%M:%S.%6f UTC").to_string();
    let transaction = |verb: &str, xid: &Option<u32>, time: &Timestamp, prepared: bool| match prepared {
        true => format!("{verb}_PREPARED {}: {}", xid.unwrap(), at(time)),
        false => format!("{verb} {}", at(time)),
    };
    match meaning {
        Meaning::Commit { xid, time, prepared } => transaction("COMMIT", xid, time, *prepared),
        Meaning::Abort { xid, time, prepared } => transaction("ABORT", xid, time, *prepared),
        Meaning::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        Meaning::Checkpoint {
            redo,
            timeline,
            prev_timeline,
            shutdown,
            ..
        } => {
            let kind = if *shutdown { "SHUTDOWN" } else { "ONLINE" };
            format!("CHECKPOINT_{kind} redo {redo}; tli {timeline}; prev tli {prev_timeline};")
        }
        Meaning::CheckpointRedo => "CHECKPOINT_REDO".into(),
        Meaning::EndOfRecovery {
            timeline,
            prev_timeline,
            time,
        } => format!(
            "END_OF_RECOVERY tli {timeline}; prev tli {prev_timeline}; time {}",
            at(time)
        ),
        Meaning::BackupEnd { start_lsn } => format!("BACKUP_END {start_lsn}"),
        Meaning::Switch => "SWITCH".into(),
        Meaning::ParameterChange { .. } => "PARAMETER_CHANGE ".into(),
        Meaning::OverwriteContrecord { lsn } => format!("OVERWRITE_CONTRECORD lsn {lsn};"),
        Meaning::TablespaceCreate { oid, location } => format!("CREATE {oid} \"{}\"", location.display()),
        Meaning::Prepare => "PREPARE".into(),
        Meaning::DatabaseCopied { from, to } => {
            let verb = if major >= 15 { "CREATE_FILE_COPY" } else { "CREATE" };
            format!("{verb} copy dir {} to {}", directory(from), directory(to))
        }
        Meaning::DatabaseRemoved { directories } => {
            let all: Vec<String> = directories.iter().map(directory).collect();
            format!("DROP dir {}", all.join(" "))
        }
        Meaning::Other => String::new(),
        Meaning::Unreadable => "(unreadable)".into(),
    }
}
