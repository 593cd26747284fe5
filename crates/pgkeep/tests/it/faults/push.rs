//! `wal push`, killed and failed at every step that it takes.

use std::time::Instant;

use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::seed;

use super::pusher::{Kind, Pusher, Source, large_source, source};

/// Every point of a push into fresh places.
fn points_of(source: &'static Source, kind: Kind) -> Vec<String> {
    let pusher = Pusher::of(source, kind);
    let (output, points) = points::trace(pusher.push(&source.segments[0]));
    output.ok();
    points
}

/// One fault at one point, and what must hold afterwards.
fn trial(source: &'static Source, kind: Kind, fault: Fault, point: &str) {
    let (pusher, segment) = (Pusher::of(source, kind), &source.segments[0]);
    let context = format!("{fault:?} at {point} of a push to {kind:?}");
    let output = fault.at(point, pusher.push(segment)).run();
    match (fault, output.code) {
        (Fault::Kill, code) => assert_eq!((code, output.signal), (None, Some(9)), "{context}: {output}"),
        (_, Some(code)) => assert!((0..126).contains(&code) && code != 3, "{context}: {output}"),
        (_, None) => panic!("{context}: {output}"),
    }
    let before = pusher.bodies();
    let there = pusher.places_with(segment, &before, &context);
    if output.code == Some(0) {
        assert_eq!(there, pusher.places(), "{context}: it says that it succeeded: {output}");
    }
    let again = pusher.push(segment).run();
    assert_eq!(again.code, Some(0), "{context}, then run again: {again}");
    pusher.check_acknowledged(segment, &before, &context);
}

/// These points once, with one of the faults after the other.
fn trials(source: &'static Source, kind: Kind, points: &[String], faults: &[Fault]) {
    let begun = Instant::now();
    for (point, fault) in points.iter().zip(faults.iter().cycle()) {
        trial(source, kind, *fault, point);
    }
    let seconds = begun.elapsed().as_secs_f32();
    eprintln!("{} trials with {faults:?} on {kind:?} in {seconds:.1} s", points.len());
}

fn every_point(kind: Kind, faults: &[Fault]) {
    trials(source(), kind, &points_of(source(), kind), faults);
}

/// Aim: a push that is killed, at whatever step, leaves nothing half-written; run again it succeeds, and changes nothing
/// that was there.
#[test]
fn a_push_killed_at_any_step_is_completed_by_a_rerun() {
    every_point(Kind::Directories, &[Fault::Kill]);
}

#[test]
fn a_push_to_a_bucket_killed_at_any_step_is_completed_by_a_rerun() {
    every_point(Kind::Bucket, &[Fault::Kill]);
}

/// Aim: a push of which any step fails never says that it succeeded unless every place has the segment, and never ends
/// with a code that would end the archiver.
#[test]
fn a_push_of_which_any_step_fails_is_honest() {
    every_point(Kind::Directories, &[Fault::Eio, Fault::Enospc]);
}

#[test]
fn a_push_to_a_bucket_of_which_any_step_fails_is_honest() {
    every_point(Kind::Bucket, &[Fault::Eio]);
}

/// Aim: the same of a segment that is stored in parts, of which a rerun meets some that were sealed under another key.
/// Method: some steps, every step with --all.
#[test]
fn a_push_in_parts_killed_at_its_steps_is_completed_by_a_rerun() {
    let points = points_of(large_source(), Kind::Directories);
    assert!(
        points.iter().any(|point| point == "engine.archive.seal#3"),
        "no parts in {points:?}"
    );
    let chosen = match seed::all() {
        true => points,
        false => {
            // From the first object on.
            let begin = points.iter().position(|point| point == "store.file.open#2");
            points::sample(&points[begin.unwrap()..], seed::seed("steps of a push in parts"), 5)
        }
    };
    trials(large_source(), Kind::Directories, &chosen, &[Fault::Kill]);
}
