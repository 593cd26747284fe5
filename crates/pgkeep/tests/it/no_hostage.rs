//! Promise 6, no hostage: the reader in contrib/reader, written in Python from docs/format.md alone, restores what
//! pgkeep wrote, and PostgreSQL recovers with it as its `restore_command`.
//!
//! Rule: a [`Reader`] gets a copy of the repository and the identity, and no program, configuration or state of pgkeep:
//! where it succeeds, whoever has these two and the document does.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_testkit::corrupt::{objects, objects_like};
use pgkeep_testkit::{Cluster, Damage, Damaged, OsUser, Run, Scratch, StopMode, reader_python};
use serde_json::Value;

use crate::backup::{backup, digest, number, text};
use crate::life::{Life, commit, oldest_and_newest};
use crate::shop;

/// Somebody who has a repository, an identity and the reader.
struct Reader {
    major: u16,
    home: Scratch,
    identity: Option<PathBuf>,
}

impl Reader {
    fn new(major: u16, repository: &Path, identity: &Path) -> Reader {
        let home = Scratch::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/reader");
        home.dir("reader");
        for file in objects(&source).iter().filter(|file| file.ends_with(".py")) {
            home.file(&format!("reader/{file}"), fs::read(source.join(file)).unwrap());
        }
        let copied = Run::new("/bin/cp")
            .arg("-a")
            .arg(repository)
            .arg(home.join("repository"));
        copied.run().ok();
        let identity = identity
            .exists()
            .then(|| home.file("identity.txt", fs::read(identity).unwrap()));
        Reader { major, home, identity }
    }

    fn repository(&self) -> PathBuf {
        self.home.join("repository")
    }

    /// The reader with one of its commands, and where everything is.
    fn words(&self, command: &str) -> Vec<String> {
        let (script, repository) = (self.home.join("reader/restore.py"), self.repository());
        let mut words = vec![
            reader_python(),
            script,
            command.into(),
            "--repository".into(),
            repository,
        ];
        words.extend(
            self.identity
                .iter()
                .flat_map(|file| ["--identity".into(), file.clone()]),
        );
        words.iter().map(|word| word.display().to_string()).collect()
    }

    fn run(&self, command: &str, args: &[&str]) -> Run {
        let words = self.words(command);
        let run = Run::new(&words[0]).as_user(OsUser::unprivileged());
        run.cwd(self.home.path()).args(&words[1..]).args(args)
    }

    /// Asks for a WAL file as PostgreSQL does; the exit code must be this one, and the file there only with 0.
    #[track_caller]
    fn wal(&self, file: &str, code: i32) -> Option<Vec<u8>> {
        let destination = self.home.join("wal-file");
        let args = [file, destination.to_str().unwrap()];
        let output = self.run("wal", &args).run().expect(code);
        assert_eq!(destination.exists(), code == 0, "{output}");
        let content = fs::read(&destination).ok();
        fs::remove_file(&destination).ok();
        content
    }

    /// The data directory of a backup as it is written, with its tablespaces beside it.
    #[track_caller]
    fn restore(&self, backup: &str, name: &str) -> PathBuf {
        let tablespaces = self.home.join(format!("{name}.tablespaces"));
        let args = ["--tablespaces", tablespaces.to_str().unwrap(), backup, name];
        self.run("restore", &args).run().ok();
        self.home.join(name)
    }

    /// A restored cluster that will recover to the end of `timeline`, the newest by default.
    #[track_caller]
    fn recovering(&self, backup: &str, name: &str, timeline: Option<u32>) -> Cluster {
        let data = self.restore(backup, name);
        let number = timeline.map(|number| number.to_string());
        let option = number
            .iter()
            .map(|number| format!("--timeline {number} "))
            .collect::<String>();
        let settings = format!(
            "\nrestore_command = '{} {option}%f %p'\nrecovery_target_timeline = '{}'\narchive_mode = off\n",
            self.words("wal").join(" "),
            number.as_deref().unwrap_or("latest"),
        );
        let auto = data.join("postgresql.auto.conf");
        fs::write(&auto, fs::read_to_string(&auto).unwrap() + &settings).unwrap();
        self.home.file(&format!("{name}/recovery.signal"), "");
        Cluster::adopt_dir(self.major, data)
    }

    /// [`Reader::recovering`], started and open for writing.
    #[track_caller]
    fn recovered(&self, backup: &str, name: &str, timeline: Option<u32>) -> Cluster {
        let mut cluster = self.recovering(backup, name, timeline);
        cluster.start();
        cluster.wait_recovered();
        cluster
    }

    /// A restore that must be refused, leaving nothing that PostgreSQL would start from.
    #[track_caller]
    fn refuses(&self, backup: &str, why: &str) {
        let tablespaces = self.home.join("refused.tablespaces");
        let args = ["--tablespaces", tablespaces.to_str().unwrap(), backup, "refused"];
        let output = self.run("restore", &args).run().expect(1);
        assert!(
            output.stderr.starts_with("error: ") || output.stderr.contains("\nerror: "),
            "{why}: {output}"
        );
        assert!(!self.home.join("refused/global/pg_control").exists(), "{why}: {output}");
        for directory in [self.home.join("refused"), tablespaces] {
            fs::remove_dir_all(directory).ok();
        }
    }
}

/// What is left of a cluster that had a failover: its repository, and the truth.
struct Lost {
    reader: Reader,
    full: String,
    incremental: String,
    at_failover: Vec<String>,
    rows: Vec<String>,
}

const ROWS: &str = "SELECT 'near', near::text FROM near UNION ALL SELECT 'far', far::text FROM far ORDER BY 1, 2";

fn rows(cluster: &Cluster) -> Vec<String> {
    cluster.sql(ROWS).lines().map(str::to_owned).collect()
}

/// A cluster with a tablespace: a full and an incremental backup, commits, a failover, more commits. Then it is gone,
/// and pgkeep's configuration, state and keys with it.
fn lose(major: u16) -> Lost {
    let mut shop = shop(major)
        .cluster(|cluster| cluster.conf("wal_keep_size = '1GB'"))
        .start();
    let primary = &shop.cluster;
    primary.create_tablespace("elsewhere");
    primary.sql(
        "CREATE TABLE near (id int PRIMARY KEY, name text, large text);
         CREATE TABLE far (id int PRIMARY KEY USING INDEX TABLESPACE elsewhere, name text) TABLESPACE elsewhere;
         INSERT INTO near SELECT i, 'row ' || i FROM generate_series(1, 3000) i;
         INSERT INTO near SELECT 0, 'toast', string_agg(md5(i::text), '') FROM generate_series(1, 3000) i;
         INSERT INTO far SELECT i, 'row ' || i FROM generate_series(1, 3000) i",
    );
    let full = backup(&shop, &["--full"]);
    primary.sql("UPDATE near SET name = 'changed' WHERE id % 100 = 0; DELETE FROM far WHERE id % 100 = 0");
    let incremental = backup(&shop, &[]);
    let added = |backup: &Value| number(&backup["new_bytes"]);
    assert!(
        added(&incremental) < added(&full) / 2,
        "{incremental} reuses little of {full}"
    );
    primary.sql("INSERT INTO near SELECT i, 'after the backups' FROM generate_series(4000, 4100) i");
    let mut heir = primary.standby("heir");
    heir.set_conf("archive_command", &shop.archive_command_of("heir"));
    // What is not archived when the primary dies is then only in the segment that it dies in, which the heir has.
    primary.archive_all();
    primary.sql("INSERT INTO far SELECT i, 'before the failover' FROM generate_series(4000, 4100) i");
    heir.catch_up_with(primary);
    shop.cluster.stop(StopMode::Immediate);
    heir.promote();
    let at_failover = rows(&heir);
    for round in 0..3 {
        heir.sql(&format!(
            "INSERT INTO near SELECT i, 'round {round}' FROM generate_series({round} * 100 + 5000, {round} * 100 + 5099) i;
             UPDATE far SET name = 'round {round}' WHERE id % 3 = {round}"
        ));
        heir.archive_all();
    }
    let rows = rows(&heir);
    heir.stop(StopMode::Fast);
    let reader = Reader::new(major, &shop.repository_dir("main"), &shop.identity_file());
    Lost {
        reader,
        full: text(&full["id"]),
        incremental: text(&incremental["id"]),
        at_failover,
        rows,
    }
}

/// Aim: the reader alone restores the incremental backup, and PostgreSQL recovers with it over the failover to the last
/// commit: every row is the one that was there, also in the tablespace.
fn everything_comes_back(major: u16) {
    let lost = lose(major);
    let listed = lost.reader.run("list", &[]).run().ok();
    assert!(listed.stdout.contains(&lost.incremental), "{listed}");
    let cluster = lost.reader.recovered(&lost.incremental, "restored", None);
    compare(&rows(&cluster), &lost.rows);
    assert_eq!(cluster.timeline().get(), 3);
    cluster.check_structure();
    let location = cluster.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'");
    assert!(
        Path::new(&location).starts_with(lost.reader.home.join("restored.tablespaces")),
        "{location}"
    );
}

/// One by one, so that the first that differs is what a failure shows.
fn compare(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn everything_comes_back_on_the_oldest_major() {
    everything_comes_back(14);
}

#[test]
fn everything_comes_back_on_the_newest_major() {
    everything_comes_back(18);
}

oldest_and_newest! {
    /// Aim: the end of each of three timelines is reached from one incremental backup of the first; what the failover
    /// lost is there only where it was asked for.
    fn every_timeline_is_reached(life: &Life) {
        let reader = Reader::new(life.shop.cluster.major(), &life.shop.repository_dir("main"), &life.shop.identity_file());
        for (timeline, last, named) in [(1, 1002, Some(1)), (2, 2004, Some(2)), (3, 3003, None)] {
            let cluster = reader.recovered(&life.backups[1], &format!("timeline-{timeline}"), named);
            life.assert_holds(&cluster, &life.up_to(timeline, last));
        }
    }
}

oldest_and_newest! {
    /// Aim: so is the end of one whose history runs backwards, because the copy that wrote it aimed at a descendant of
    /// the timeline that it stopped on.
    fn a_history_that_runs_backwards_is_followed(life: &Life) {
        let branch = life.branch();
        let copy = life.copy_that_aimed_too_far(&branch);
        commit(&copy, [4001]);
        copy.archive_all();
        let reader = Reader::new(copy.major(), &branch.repository(), &branch.home().join("identity.txt"));
        let expected = [life.up_to(1, 16), vec![4001]].concat();
        life.assert_holds(&reader.recovered(&life.backups[1], "latest", None), &expected);
        life.assert_holds(&reader.recovered(&life.backups[1], "third", Some(3)), &life.up_to(3, 3003));
        // What only its history tells of ends where it began, also in a segment that others go on in.
        for segment in objects_like(&reader.repository(), "/00000004/0000000400") {
            fs::remove_file(reader.repository().join(segment)).unwrap();
        }
        life.assert_holds(&reader.recovered(&life.backups[1], "beginning", None), &life.up_to(1, 16));
    }
}

/// Aim: the end of the first timeline is reached though its last segment was archived under the second one's name only,
/// with what that wrote behind it: PostgreSQL would panic at it.
fn a_borrowed_segment_is_cut(major: u16) {
    let lost = lose(major);
    let root = lost.reader.repository();
    for partial in objects_like(&root, ".partial-") {
        fs::remove_file(root.join(partial)).unwrap();
    }
    let cluster = lost.reader.recovered(&lost.incremental, "restored", Some(1));
    compare(&rows(&cluster), &lost.at_failover);
}

#[test]
fn a_borrowed_segment_is_cut_on_the_oldest_major() {
    a_borrowed_segment_is_cut(14);
}

#[test]
fn a_borrowed_segment_is_cut_on_the_newest_major() {
    a_borrowed_segment_is_cut(18);
}

/// Aim: the repositories that earlier versions wrote come back with the reader, too, sealed and not.
#[test]
fn golden_repositories_come_back() {
    for name in ["format-1-none-postgres-14", "format-1-age-postgres-18"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let expected: Value = serde_json::from_slice(&fs::read(golden.join("expected.json")).unwrap()).unwrap();
        let major = expected["major"].as_u64().unwrap() as u16;
        let reader = Reader::new(major, &golden.join("repository"), &golden.join("identity.txt"));
        let latest = expected["moments"].as_array().unwrap().last().unwrap();
        for (number, backup) in expected["backups"].as_array().unwrap().iter().enumerate() {
            let cluster = reader.recovered(&text(&backup["id"]), &format!("restored-{number}"), None);
            for table in ["items", "kept"] {
                assert_eq!(digest(&cluster, table), text(&latest[table]), "{table} of {name}");
            }
        }
    }
}

/// Where in the body of a sealed object its middle lies: in packs headers are not what a restore relies on.
fn middle_of_body(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let header = u64::from(u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
    (12 + header + bytes.len() as u64) / 2
}

/// Aim: whatever object is damaged by one bit, or stands in another's place, the reader refuses; nothing that was
/// restored can be started, and PostgreSQL is given no file. Method: each object of the repository in turn.
#[test]
fn a_flipped_bit_and_a_swapped_object_are_refused() {
    let lost = lose(18);
    let (reader, root) = (&lost.reader, lost.reader.repository());
    let last_of = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    for (seed, name) in objects(&root).iter().enumerate() {
        let path = root.join(name);
        let mut damage = Damage::flip(seed as u64, fs::metadata(&path).unwrap().len());
        if name.starts_with("packs/") {
            damage = Damage::FlipBit {
                at: middle_of_body(&path),
                bit: 3,
            };
        }
        let damaged = Damaged::new(&root, name, damage);
        let backup = if name.contains(&lost.full) {
            &lost.full
        } else {
            &lost.incremental
        };
        match name.split('/').next().unwrap() {
            "wal" => drop(reader.wal(last_of(name).split('-').next().unwrap(), 255)),
            "leases" => {}
            _ => reader.refuses(backup, &format!("{name} with {damage:?}")),
        }
        damaged.undo();
    }
    let in_both = |part: &str| [&lost.full, &lost.incremental].map(|id| format!("{id}/{part}"));
    for part in ["00000000", "manifest", "packs", "head"] {
        let names = in_both(part).map(|end| objects_like(&root, &end).remove(0));
        swap(&root, &names);
        reader.refuses(&lost.incremental, part);
        swap(&root, &names);
    }
    let segments = objects_like(&root, "/00000002/0000000200");
    let names = [segments[0].clone(), segments[1].clone()];
    swap(&root, &names);
    for name in &names {
        reader.wal(&last_of(name)[..24], 255);
    }
    swap(&root, &names);
    reader.wal(&last_of(&names[0])[..24], 0);
    reader.restore(&lost.incremental, "in-the-end");
}

fn swap(root: &Path, [a, b]: &[String; 2]) {
    let aside = root.join("aside");
    fs::rename(root.join(a), &aside).unwrap();
    fs::rename(root.join(b), root.join(a)).unwrap();
    fs::rename(&aside, root.join(b)).unwrap();
}

/// Aim: "there is no such file", on which PostgreSQL opens the database, is said only where the archive ends. A gap, a
/// wrong call and a reader that can't even begin stop PostgreSQL instead.
#[test]
fn only_the_end_of_the_archive_is_an_end() {
    let lost = lose(18);
    let (reader, root) = (&lost.reader, lost.reader.repository());
    let segments = objects_like(&root, "/00000002/0000000200");
    let name = |object: &String| object.rsplit('/').next().unwrap()[..24].to_owned();
    let last = name(segments.last().unwrap());
    let next = format!(
        "{}{:08X}",
        &last[..16],
        u32::from_str_radix(&last[16..], 16).unwrap() + 1
    );
    reader.wal(&next, 1);
    reader.wal("00000003.history", 1);
    let history = reader.wal("00000002.history", 0).unwrap();
    assert!(history.starts_with(b"1\t"), "{history:?}");

    let gap = Damaged::new(&root, &segments[1], Damage::Delete);
    reader.wal(&name(&segments[1]), 255);
    let log = reader.recovering(&lost.incremental, "gap", None).start_expect_failure();
    assert!(log.contains("child process exited with exit code 255"), "{log}");
    // A good copy beside the bad one is as good.
    let alternate = root.join(format!("{}.r1", segments[0]));
    fs::copy(root.join(&segments[0]), &alternate).unwrap();
    OsUser::unprivileged().own(&alternate);
    let healed = Damaged::new(&root, &segments[0], Damage::Truncate { to: 1000 });
    reader.wal(&name(&segments[0]), 0);
    healed.undo();
    gap.undo();

    let words = reader.words("wal");
    for args in [&words[1..2], &words[1..3]] {
        Run::new(&words[0]).args(args).run().expect(255);
    }
    let without_packages = Run::new(&words[0]).arg("-I").args(&words[1..]);
    without_packages.args([&next, "nowhere"]).run().expect(255);
    let absent = reader.home.join("absent").display().to_string();
    reader
        .run("wal", &["--repository", &absent, &next, "nowhere"])
        .run()
        .expect(255);
}

/// Aim: after a rotation and a rewrap the new identity is enough: for the naming key, for backups and WAL that were sealed
/// before, and for what was signed by a host that was enrolled later.
#[test]
fn a_rotated_repository_opens_for_the_new_identity_alone() {
    let shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let id = text(&backup(&shop, &[])["id"]);
    shop.cluster.archive_all();
    let new = shop.home().join("new.txt");
    let recipient = shop.pgkeep(["keys", "new", new.to_str().unwrap()]).ok().stdout;
    let toml = fs::read_to_string(shop.config_file()).unwrap();
    let line = toml.lines().find(|line| line.starts_with("recipients = ")).unwrap();
    shop.reconfigure(line, &format!("recipients = [\"{}\"]", recipient.trim()));
    let identity = shop.identity_file();
    shop.pgkeep(["keys", "rotate", "--rewrap", "--identity", identity.to_str().unwrap()])
        .ok();
    let key = shop.home().join("signing.key");
    let first = shop.home().join("first.key");
    fs::rename(&key, &first).unwrap();
    shop.cluster.sql("INSERT INTO t VALUES (-1)");
    shop.cluster.archive_all();
    let second = shop.home().join("second.key");
    fs::rename(&key, &second).unwrap();
    fs::rename(&first, &key).unwrap();
    let signer = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .find(|word| word.starts_with("s-"))
            .map(str::to_owned)
            .unwrap()
    };
    shop.pgkeep(["keys", "trust", &signer(&second)]).ok();
    let reader = Reader::new(17, &shop.repository_dir("main"), &new);
    let recovered = reader.recovered(&id, "restored", None);
    assert_eq!(digest(&recovered, "t"), digest(&shop.cluster, "t"));
}
