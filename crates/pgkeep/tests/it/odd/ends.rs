//! Backups that lose something at their very end, and that are held up longer than anybody waits (K32, M4, M26, M39).

use std::time::Duration;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Output, Running, Signal, StopMode};

use super::truth::{Truth, restored};
use crate::backup::{listed, out_of_backup_mode, text};
use crate::proxy::{Gate, through};
use crate::shop;

/// The call that ends a backup, in 14 and since.
fn end_of_backup(major: u16) -> &'static str {
    if major == 14 {
        "pg_stop_backup(false, false)"
    } else {
        "pg_backup_stop(false)"
    }
}

/// A cluster with a role that has the grants of the documentation and no more, and a backup of that role that has
/// copied everything and is about to end.
fn at_the_end(major: u16) -> (Shop, Gate, Running) {
    let shop = shop(major).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; CREATE ROLE keeper LOGIN");
    shop.reconfigure("user=postgres", "user=keeper");
    let report = shop.pgkeep(["--json", "doctor"]).ok().json();
    let grants = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["id"] == "role-grants");
    shop.cluster.sql(&text(&grants.unwrap()["fix"]));
    let gate = Gate::before(shop.cluster.port(), end_of_backup(major));
    let connection = format!(
        "host=127.0.0.1 port={} user=keeper dbname=postgres sslmode=disable",
        gate.port()
    );
    let backup = shop
        .run(["backup"])
        .env("PGKEEP_CLUSTER__SHOP__CONNECTION", connection)
        .spawn();
    gate.wait();
    (shop, gate, backup)
}

/// Nothing is left of the backup that failed, and the next one is as good as any.
fn check_aftermath(shop: &Shop, failed: &Output) {
    out_of_backup_mode(&shop.cluster);
    assert_eq!(listed(shop), [""; 0], "{failed}");
    let done = shop.pgkeep(["--json", "backup"]).ok().json();
    let copy = restored(shop, "copy", &text(&done["id"]), &[]);
    Truth::of(&shop.cluster).prove(copy);
}

/// Aim: whoever may not end backup mode any more has no backup, and is told the grant that is missing.
fn a_privilege_that_is_lost_at_the_end(major: u16) {
    let (shop, gate, backup) = at_the_end(major);
    let function = match major {
        14 => "pg_stop_backup(boolean, boolean)",
        _ => "pg_backup_stop(boolean)",
    };
    shop.cluster
        .sql(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM keeper"));
    gate.open();
    let output = backup.wait().expect(7);
    assert!(
        output
            .stderr
            .contains(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function}")),
        "{output}"
    );
    shop.cluster
        .sql(&format!("GRANT EXECUTE ON FUNCTION {function} TO keeper"));
    check_aftermath(&shop, &output);
}

super::at_both_ends!(a_privilege_that_is_lost_at_the_end);

/// Aim: a backup whose server does not answer the last question any more does not exist, although every file was copied.
#[test]
fn a_connection_that_is_lost_at_the_end() {
    let (shop, gate, backup) = at_the_end(17);
    gate.cut();
    let output = backup.wait().expect(7);
    check_aftermath(&shop, &output);
}

/// Aim: the same for a question that is acknowledged and never answered: that is noticed in bounded time.
#[test]
fn a_connection_that_goes_silent_at_the_end() {
    let (shop, gate, backup) = at_the_end(18);
    let output = backup.wait().expect(7);
    assert!(output.stderr.contains("PostgreSQL has not answered for"), "{output}");
    assert!(output.elapsed < Duration::from_secs(60), "{output}");
    // The server learns of it only now: nobody passed on that the other side is gone.
    gate.cut();
    check_aftermath(&shop, &output);
}

/// Aim: the same for a server that crashed and is back by then.
#[test]
fn a_server_that_crashed_at_the_end() {
    let (mut shop, gate, backup) = at_the_end(18);
    shop.cluster.restart(StopMode::Immediate);
    gate.open();
    let output = backup.wait().expect(7);
    check_aftermath(&shop, &output);
}

/// Aim: a backup whose last WAL record ends exactly where a segment does needs that segment and not the next; several
/// backups of an idle server, each within one segment, restore, too (K41).
/// Method: held before its end, the WAL is filled up to where the record that ends a backup just fits.
fn a_backup_that_ends_with_a_segment(major: u16) {
    /// Length of the record that ends a backup, in WAL.
    const END_RECORD_BYTES: u64 = 40;
    const SEGMENT_BYTES: u64 = 1 << 20;
    let shop = shop(major)
        .cluster(|cluster| cluster.conf("autovacuum = off\nbgwriter_delay = 10s"))
        .start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let left = || {
        let lsn = shop.cluster.lsn().0;
        (SEGMENT_BYTES - END_RECORD_BYTES).wrapping_sub(lsn % SEGMENT_BYTES) % SEGMENT_BYTES
    };
    let fill = |bytes: u64| {
        shop.cluster.sql(&format!(
            "SELECT pg_logical_emit_message(false, '', repeat('x', {bytes}))"
        ))
    };
    for _ in 0..20 {
        let gate = Gate::before(shop.cluster.port(), end_of_backup(major));
        let running = through(&shop, gate.port(), ["--json", "backup"]).spawn();
        gate.wait();
        // Records of other processes may come in between: then once more.
        while left() > 8000 {
            fill(left().min(500_000) - 4000);
        }
        let before = left();
        fill(200);
        let overhead = before - left() - 200;
        fill(left() - overhead);
        gate.open();
        let done = running.wait().ok().json();
        let stop: pgkeep_base::Lsn = text(&done["stop_lsn"]).parse().unwrap();
        if stop.0.is_multiple_of(SEGMENT_BYTES) {
            let id = text(&done["id"]);
            Truth::of(&shop.cluster).prove(restored(&shop, "copy", &id, &[]));
            for name in ["idle", "idle-again"] {
                let id = text(&shop.pgkeep(["--json", "backup"]).ok().json()["id"]);
                Truth::of(&shop.cluster).prove(restored(&shop, name, &id, &[]));
            }
            return;
        }
    }
    panic!("no backup ever ended with a segment");
}

super::at_both_ends!(a_backup_that_ends_with_a_segment);

/// Aim: functions and operators that pretend to be PostgreSQL's, in every schema that a role may be led to, are never
/// called (K38, CVE-2018-1058).
#[test]
fn functions_that_pretend_to_be_postgresqls() {
    let shop = shop(17).start();
    shop.cluster.sql(
        "CREATE TABLE t AS SELECT generate_series(1, 1000) i; CREATE TABLE called (what text);
         CREATE FUNCTION trap(what text) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.called VALUES (what); RAISE 'called %', what; END $$;
         CREATE FUNCTION pg_backup_start(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT public.trap('start') $$;
         CREATE FUNCTION pg_backup_stop(boolean) RETURNS text LANGUAGE sql AS $$ SELECT public.trap('stop') $$;
         CREATE FUNCTION pg_switch_wal() RETURNS text LANGUAGE sql AS $$ SELECT public.trap('switch') $$;
         CREATE FUNCTION pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS $$ SELECT public.trap('recovery') = '' $$;
         CREATE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT public.trap('setting') $$;
         CREATE FUNCTION equal(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.trap('=') = '' $$;
         CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = equal);
         CREATE VIEW pg_settings AS SELECT public.trap('view') AS name, '' AS setting;
         ALTER DATABASE postgres SET search_path = public, pg_catalog;
         ALTER ROLE postgres SET search_path = public, pg_catalog",
    );
    let id = text(&shop.pgkeep(["--json", "backup"]).ok().json()["id"]);
    shop.pgkeep(["doctor"]).ok();
    shop.pgkeep(["mark", "here"]).ok();
    shop.cluster.sql("SET search_path = pg_catalog; ALTER ROLE postgres RESET search_path; ALTER DATABASE postgres RESET search_path");
    assert_eq!(shop.cluster.sql("SELECT pg_catalog.count(*) FROM public.called"), "0");
    assert!(!shop.cluster.log().contains("called "), "{}", shop.cluster.log());
    assert_eq!(listed(&shop), [id.as_str()]);
}

/// Aim: a process that stands still longer than every limit for an answer goes on to a good backup, or fails.
/// Method: stopped when everything is copied, 20 s with `--all`, else shorter than any limit.
#[test]
fn a_backup_that_stands_still() {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let (shop, gate, mut backup) = at_the_end(17);
    backup.signal(Signal::STOP);
    gate.open();
    std::thread::sleep(Duration::from_secs(if all { 20 } else { 1 }));
    backup.signal(Signal::CONT);
    let output = backup.wait();
    match output.code {
        Some(0) => {
            let id = listed(&shop).remove(0);
            Truth::of(&shop.cluster).prove(restored(&shop, "copy", &id, &[]));
        }
        _ => check_aftermath(&shop, &output.expect(7)),
    }
}
