//! `wal push`, killed and failed at every step that it takes.

use std::time::Instant;

use pgkeep_testkit::faults::points::{self, Fault};

use super::pusher::{Kind, Pusher, source};

/// Every point of a push into fresh places.
fn points_of(kind: Kind) -> Vec<String> {
    let pusher = Pusher::new(kind);
    let (output, points) = points::trace(pusher.push(&source().segments[0]));
    output.ok();
    points
}

/// One fault at one point, and what must hold afterwards.
fn trial(kind: Kind, fault: Fault, point: &str) {
    let (pusher, segment) = (Pusher::new(kind), &source().segments[0]);
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

/// Every point once, with one of the faults after the other.
fn every_point(kind: Kind, faults: &[Fault]) {
    let (points, begun) = (points_of(kind), Instant::now());
    for (point, fault) in points.iter().zip(faults.iter().cycle()) {
        trial(kind, *fault, point);
    }
    let seconds = begun.elapsed().as_secs_f32();
    eprintln!("{} trials with {faults:?} on {kind:?} in {seconds:.1} s", points.len());
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
