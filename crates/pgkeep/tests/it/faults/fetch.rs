//! `wal fetch`, killed and failed at every step that it takes.

use std::fs;
use std::path::Path;
use std::time::Instant;

use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::{Output, Run, Scratch};

use super::pusher::source;

/// Who asks, and where the answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Case {
    /// In the restored directory, where the recovery's plan lies; else in the old one.
    planned: bool,
    standby: bool,
    place: &'static str,
}

const PLANNED: Case = Case {
    planned: true,
    standby: false,
    place: "main",
};

/// One recovery that asks.
struct Recovery {
    case: Case,
    /// Where the file is to be delivered, with nothing else in it.
    wal: Scratch,
}

impl Recovery {
    fn new(case: Case) -> Recovery {
        Recovery {
            case,
            wal: Scratch::new(),
        }
    }

    /// Asks for a segment in the middle of the archive.
    fn fetch(&self) -> Run {
        let source = source();
        let directory = match self.case.planned {
            true => &source.restored,
            false => source.shop.cluster.data_dir(),
        };
        let run = source.shop.run(["wal", "fetch", "--repository", self.case.place]);
        let run = run.args(self.case.standby.then_some("--standby"));
        run.arg(&source.segments[4])
            .arg(self.wal.join("RECOVERYXLOG"))
            .cwd(directory)
    }

    /// Whether the file was delivered: then it is the right one.
    #[track_caller]
    fn delivered(&self, context: &str) -> bool {
        let Ok(bytes) = fs::read(self.wal.join("RECOVERYXLOG")) else {
            return false;
        };
        let segment = &source().segments[4];
        assert!(
            bytes == source().content(segment),
            "{context}: {} wrong bytes",
            bytes.len()
        );
        true
    }

    /// The answer is one that loses no data.
    #[track_caller]
    fn check(&self, fault: Fault, output: &Output, context: &str) {
        let delivered = self.delivered(context);
        match (fault, output.code) {
            (Fault::Kill, None) => assert_eq!(output.signal, Some(9), "{context}: {output}"),
            (Fault::Kill, Some(_)) => panic!("{context}: not killed: {output}"),
            (_, Some(0)) => assert!(delivered, "{context}: {output}"),
            // A standby asks again.
            (_, Some(1)) if self.case.standby => {}
            (_, code) => assert_eq!(code, Some(255), "{context}: {output}"),
        }
    }

    /// Once more, without a fault: the file comes, and nothing else is left.
    #[track_caller]
    fn check_again(&self, context: &str) {
        let again = self.fetch().run();
        assert_eq!(again.code, Some(0), "{context}, then asked again: {again}");
        assert!(self.delivered(context), "{context}: {again}");
        assert_eq!(names(self.wal.path()), ["RECOVERYXLOG"], "{context}: something is left");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn every_point(case: Case, faults: &[Fault]) {
    let (output, points) = points::trace(Recovery::new(case).fetch());
    output.ok();
    let begun = Instant::now();
    for (point, fault) in points
        .iter()
        .flat_map(|point| faults.iter().map(move |fault| (point, fault)))
    {
        let (recovery, context) = (
            Recovery::new(case),
            format!("{fault:?} at {point} of a fetch, {case:?}"),
        );
        let output = fault.at(point, recovery.fetch()).run();
        recovery.check(*fault, &output, &context);
        recovery.check_again(&context);
    }
    let (count, seconds) = (points.len() * faults.len(), begun.elapsed().as_secs_f32());
    eprintln!("{count} trials with {faults:?} of {case:?} in {seconds:.1} s");
}

/// Aim: a fetch that is killed or fails, at whatever step, gives PostgreSQL the right file or none, and never an answer
/// that ends a recovery too early; asked again it delivers.
#[test]
fn a_planned_fetch_is_killed_and_failed_at_any_step() {
    every_point(PLANNED, &[Fault::Kill, Fault::Eio]);
}

#[test]
fn a_fetch_from_a_bucket_is_killed_and_failed_at_any_step() {
    let place = "bucket";
    every_point(Case { place, ..PLANNED }, &[Fault::Kill, Fault::Eio]);
}

#[test]
fn a_fetch_without_a_plan_is_killed_and_failed_at_any_step() {
    let planned = false;
    every_point(Case { planned, ..PLANNED }, &[Fault::Kill, Fault::Enospc]);
}

#[test]
fn a_fetch_for_a_standby_is_killed_and_failed_at_any_step() {
    let case = Case {
        planned: false,
        standby: true,
        place: "main",
    };
    every_point(case, &[Fault::Kill, Fault::Eio]);
}
