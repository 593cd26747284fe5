//! `restore`, killed and failed at its steps, again and again in one directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::{Cluster, Output, Run, Scratch, seed};

use super::pusher::{Source, source};

/// Steps of the gate's sample.
const SAMPLE: usize = 40;
/// After so many runs that were cut short one is allowed to end.
const UNBROKEN: usize = 5;
/// The mark of an unfinished restore.
const MARK: &str = ".pgkeep/restore-in-progress";

/// One directory that is restored into.
struct Target {
    source: &'static Source,
    scratch: Scratch,
    /// What a whole one holds.
    reference: BTreeMap<String, FileBytes>,
    /// The faults since it was whole.
    faults: Vec<String>,
    /// Kills that met nobody.
    unmet: usize,
}

/// Mode, owner and content.
type FileBytes = (u32, u32, Vec<u8>);

/// All files and directories of a restored directory, but the mark.
fn content(directory: &Path) -> BTreeMap<String, FileBytes> {
    let names = objects(directory).into_iter().filter(|name| name != MARK);
    let read = |name: String| {
        let path = directory.join(&name);
        let found = fs::metadata(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        (name, (found.permissions().mode(), found.uid(), bytes))
    };
    names.map(read).collect()
}

impl Target {
    fn new() -> Target {
        let source = source();
        Target {
            source,
            scratch: Scratch::new(),
            reference: content(&source.restored),
            faults: Vec::new(),
            unmet: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn restore(&self) -> Run {
        self.source
            .shop
            .run(["restore", "--latest", "--jobs", "1", "--into"])
            .arg(self.path())
    }

    /// What the failure of a test says: how to repeat it.
    fn context(&self) -> String {
        format!("a restore run again after each of: {}", self.faults.join(", "))
    }

    /// One run that is cut short, and what must hold then.
    fn fault(&mut self, fault: Fault, point: &str) {
        let output = fault.at(point, self.restore()).run();
        self.faults.push(format!("{fault:?} at {point}"));
        let context = self.context();
        match (fault, output.code) {
            // The step may not come up so often in a directory that holds something already.
            (_, Some(0)) => {
                self.unmet += usize::from(fault == Fault::Kill);
                return self.check_whole(&output);
            }
            (Fault::Kill, code) => assert_eq!((code, output.signal), (None, Some(9)), "{context}: {output}"),
            (_, code) => assert_eq!(code, Some(1), "{context}: {output}"),
        }
        if self.path().join("global/pg_control").exists() {
            // It comes last: whatever became of the program, this is a whole cluster.
            assert!(
                content(&self.path()) == self.reference,
                "{context}: with pg_control, but not whole"
            );
            // Without its mark it is finished, whatever was still to be made durable: no restore goes on in it.
            if !self.path().join(MARK).exists() {
                self.check_whole(&output);
            }
        } else if self.path().exists() {
            let log = Cluster::adopt_dir(17, self.path())
                .try_start()
                .expect_err("half a cluster must not start");
            assert!(!log.contains("ready to accept"), "{context}: {log}");
        }
    }

    /// Run once more, undisturbed.
    fn complete(&mut self) {
        let output = self.restore().run();
        assert_eq!(output.code, Some(0), "{}: {output}", self.context());
        self.check_whole(&output);
    }

    /// It is what every restore of that backup is, and is taken away.
    fn check_whole(&mut self, output: &Output) {
        let (context, found) = (self.context(), content(&self.path()));
        for (name, wanted) in &self.reference {
            assert!(
                found.get(name) == Some(wanted),
                "{context}: {name} is not what it was: {output}"
            );
        }
        assert_eq!(found.len(), self.reference.len(), "{context}: {output}");
        assert!(!self.path().join(MARK).exists(), "{context}: {output}");
        fs::remove_dir_all(self.path()).unwrap();
        self.faults.clear();
    }
}

fn every_point(points: &[String], faults: &[Fault]) {
    let (mut target, begun) = (Target::new(), Instant::now());
    for (number, (point, fault)) in points.iter().zip(faults.iter().cycle()).enumerate() {
        target.fault(*fault, point);
        if number % UNBROKEN == UNBROKEN - 1 {
            target.complete();
        }
    }
    target.complete();
    let seconds = begun.elapsed().as_secs_f32();
    let (count, unmet) = (points.len(), target.unmet);
    eprintln!("{count} restores cut short with {faults:?}, {unmet} kills met nobody, in {seconds:.1} s");
    assert!(unmet * 10 <= count, "{unmet} kills of {count} faults met nobody");
}

fn points_of_a_restore() -> Vec<String> {
    let (output, points) = points::trace(Target::new().restore());
    output.ok();
    points
}

/// Aim: a restore that is killed or fails at any step can't be started unless it is whole, and the same restore run
/// again makes it whole. Method: run after run in one directory, so that each also meets what the last one left; then
/// PostgreSQL tries to start it. With --all every step, at up to 16 of its occurrences, once for each kind of fault.
#[test]
fn a_restore_cut_short_at_its_steps_is_not_startable_and_is_completed() {
    let points = points_of_a_restore();
    if seed::all() {
        let every = points::every_step(&points);
        every_point(&every, &[Fault::Kill]);
        every_point(&every, &[Fault::Eio, Fault::Enospc]);
    } else {
        let chosen = points::sample(&points, seed::seed("steps of a restore"), SAMPLE);
        every_point(&chosen, &[Fault::Kill, Fault::Eio, Fault::Kill, Fault::Enospc]);
    }
}

/// Aim: what a completed restore holds is right, by PostgreSQL's own word.
#[test]
fn a_restore_completed_after_kills_holds_everything() {
    let points = points_of_a_restore();
    let chosen = points::sample(&points, seed::seed("kills before a start"), 3);
    let mut target = Target::new();
    for point in chosen {
        target.fault(Fault::Kill, &point);
    }
    target.restore().run().ok();
    let mut copy = Cluster::adopt_dir(17, target.path());
    copy.start();
    copy.wait_recovered();
    assert_eq!(target.source.rows(&copy), target.source.rows, "{}", target.context());
}
