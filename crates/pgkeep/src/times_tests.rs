//! What may be written as a time, and what is refused.

use super::*;

fn reading(terminal: bool) -> Reading {
    Reading {
        now: "2026-11-20T10:00:00Z".parse().unwrap(),
        local: TimeZone::get("Europe/Berlin").unwrap(),
        terminal,
    }
}

fn at(text: &str) -> String {
    let moment = read(text, &reading(false)).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(!moment.zone_assumed, "{text}");
    utc(moment.at)
}

#[test]
fn times_with_an_offset_need_no_terminal() {
    for text in [
        "2026-09-20T14:03:00Z",
        "2026-09-20 14:03:00Z",
        "2026-09-20 14:03 Z",
        "2026-09-20t16:03:00+02:00",
        "2026-09-20 16:03:00+02",
        "2026-09-20 16:03 +0200",
        "2026-09-20T10:33-03:30",
        " 2026-09-20T14:03z ",
    ] {
        assert_eq!(at(text), "2026-09-20T14:03:00Z", "{text}");
    }
    assert_eq!(at("2026-09-20 14:03:00.123456Z"), "2026-09-20T14:03:00.123456Z");
    assert_eq!(at("2026-09-20 14:03:00.123456+00"), "2026-09-20T14:03:00.123456Z");
}

#[test]
fn times_with_a_zone_follow_its_summer_time() {
    assert_eq!(at("2026-09-20 14:03 Europe/Berlin"), "2026-09-20T12:03:00Z");
    assert_eq!(at("2026-12-20 14:03:30 Europe/Berlin"), "2026-12-20T13:03:30Z");
    assert_eq!(at("2026-12-20T14:03:30[America/New_York]"), "2026-12-20T19:03:30Z");
    assert_eq!(at("2026-09-20 14:03 UTC"), "2026-09-20T14:03:00Z");
    assert_eq!(at("2026-09-20 14:03 Turkey"), "2026-09-20T11:03:00Z");
}

#[test]
fn elapsed_times_count_back_from_now() {
    assert_eq!(at("5 minutes ago"), "2026-11-20T09:55:00Z");
    assert_eq!(at("1 hour 30 minutes ago"), "2026-11-20T08:30:00Z");
    assert_eq!(at("90s ago"), "2026-11-20T09:58:30Z");
    assert_eq!(at("2 days ago"), "2026-11-18T10:00:00Z");
    assert_eq!(at("now"), "2026-11-20T10:00:00Z");
}

#[test]
fn a_time_without_a_zone_is_local_and_only_on_a_terminal() {
    let moment = read("2026-09-20 14:03", &reading(true)).unwrap();
    assert_eq!(
        (utc(moment.at).as_str(), moment.zone_assumed),
        ("2026-09-20T12:03:00Z", true)
    );
    let error = read("2026-09-20 14:03", &reading(false)).unwrap_err();
    assert_eq!(error.kind(), pgkeep_base::ErrorKind::Invalid);
    assert!(error.hint_text().unwrap().contains("Europe/Berlin"));
}

#[test]
fn a_repeated_or_skipped_hour_is_refused_with_both_spellings() {
    let twice = read("2026-10-25 02:30 Europe/Berlin", &reading(true)).unwrap_err();
    assert!(twice.to_string().contains("occurs twice"), "{twice}");
    let hint = twice.hint_text().unwrap();
    assert!(
        hint.contains("'2026-10-25T02:30:00+02'") && hint.contains("'2026-10-25T02:30:00+01'"),
        "{hint}"
    );
    assert_eq!(at("2026-10-25T02:30:00+02"), "2026-10-25T00:30:00Z");
    let never = read("2026-03-29 02:30 Europe/Berlin", &reading(true)).unwrap_err();
    assert!(never.to_string().contains("does not exist"), "{never}");
}

#[test]
fn what_is_no_moment_is_refused() {
    for text in [
        "",
        "ago",
        "yesterday",
        "2026-09-20",
        "14:03",
        "2026-09-20 25:03 UTC",
        "2026-09-31 14:03Z",
        "2026-09-20 14:03 Europe/Atlantis",
        "3 months ago",
        "-5 minutes ago",
        "5 parsecs ago",
        "2026-09-20 14:03 +2",
        "2026-09-20 14:03+02:75",
        "1758376980",
        "Z",
    ] {
        let error = read(text, &reading(true)).expect_err(text);
        assert_eq!(error.kind(), pgkeep_base::ErrorKind::Invalid, "{text}");
        assert!(error.hint_text().is_some(), "{text}");
    }
}

#[test]
fn moments_are_shown_in_utc_and_local_time() {
    let at = "2026-09-20T12:03:00.5Z".parse().unwrap();
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(show(at, Some(&berlin)), "2026-09-20 12:03:00Z (14:03:00 local)");
    let late = "2026-09-20T23:03:00Z".parse().unwrap();
    assert_eq!(
        show(late, Some(&berlin)),
        "2026-09-20 23:03:00Z (2026-09-21 01:03:00 local)"
    );
    assert_eq!(show(at, Some(&TimeZone::UTC)), "2026-09-20 12:03:00Z");
    assert_eq!(show(at, None), "2026-09-20 12:03:00Z");
}

#[test]
fn lengths_show_their_two_largest_units() {
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3_725, "1 h 2 min"),
        (200_000, "2 d 7 h"),
        (86_401, "1 d"),
    ] {
        assert_eq!(elapsed(seconds), text);
    }
}
