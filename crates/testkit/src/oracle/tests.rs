//! Claims about the oracle: it accepts what is right and, more important, notices each thing that is wrong.

use super::*;
use crate::postgres::StopMode;

crate::every_major! {
    /// Aim: a copy that PostgreSQL itself made passes; nothing acknowledged before it is missing.
    fn a_base_backup_taken_under_load_passes(major: u16) {
        let cluster = Cluster::builder(major).segment_mib(1).start();
        let oracle = Oracle::start(&cluster, 3);
        oracle.wait_for(150);
        let advertised = oracle.ledger().last_lsn();
        cluster.base_backup_to(&cluster.scratch().join("copy"), false);
        oracle.wait_for(50);
        let ledger = oracle.stop();
        let mut copy = Cluster::adopt_dir(major, cluster.scratch().join("copy"));
        copy.start();
        let checked = ledger.check(&copy, Upto::AtLeast(advertised)).unwrap();
        assert!(checked.required >= 150, "{checked:?}");
        assert!(ledger.check(&copy, Upto::All).unwrap_err().starts_with("I1"));
        assert!(ledger.check(&cluster, Upto::All).is_ok());
        assert!(ledger.check(&cluster, Upto::Lsn(advertised)).unwrap_err().starts_with("I3"));
    }
}

/// Aim: crashes of the server are survived, and the transaction in flight is resolved, not guessed.
#[test]
fn writers_outlive_crashes() {
    let mut cluster = Cluster::builder(17).segment_mib(1).start();
    let oracle = Oracle::builder(&cluster)
        .writers(4)
        .seed(7)
        .pause(Duration::ZERO)
        .start();
    for crash in 0..4 {
        oracle.wait_for(200);
        if crash % 2 == 0 {
            cluster.kill9()
        } else {
            cluster.stop(StopMode::Immediate)
        }
        cluster.start();
    }
    oracle.wait_for(100);
    let ledger = oracle.stop();
    let kinds = |kind| ledger.commits().iter().filter(|commit| commit.kind == kind).count();
    assert!(kinds(Kind::Prepared) > 0 && kinds(Kind::Ddl) > 0);
    ledger.check(&cluster, Upto::All).unwrap();
}

/// Aim: heavy writers go on after a failover that lost commits and kept some that nobody had been told of, and what they
/// did before and after it is checked as one. Method: a standby is promoted while its primary goes on.
#[test]
fn writers_go_on_where_a_failover_left_them() {
    let primary = Cluster::builder(17).segment_mib(1).start();
    primary.create_tablespace("second");
    let heavy = |cluster: &Cluster| {
        let builder = Oracle::builder(cluster).writers(3).seed(5).pause(Duration::ZERO);
        builder.heavy().tablespace("second")
    };
    let oracle = heavy(&primary).start();
    let mut standby = primary.standby("standby");
    oracle.wait_for(600);
    standby.promote();
    oracle.wait_for(100);
    let all = oracle.stop();
    all.check(&primary, Upto::All).unwrap();
    assert!(all.check(&standby, Upto::All).unwrap_err().starts_with("I1"));
    let settled = all.settle(&standby).unwrap();
    settled.check(&standby, Upto::All).unwrap();
    assert!(settled.commits().len() < all.commits().len());

    let oracle = heavy(&standby).resume(settled.clone()).start();
    oracle.wait_for(600);
    standby.kill9();
    standby.start();
    oracle.wait_for(100);
    let ledger = oracle.stop();
    ledger.check(&standby, Upto::All).unwrap();
    assert!(ledger.commits().len() >= settled.commits().len() + 700);
    assert!(ledger.commits().iter().any(|commit| commit.kind == Kind::Bulk));
    standby.check_structure();

    for (wrong, said) in [
        ("DELETE FROM oracle_bulk WHERE writer = 1 AND n = 7", "rows"),
        (
            "UPDATE oracle_bulk SET filler = 'x' WHERE writer = 1 AND n = 7",
            "right",
        ),
        ("DELETE FROM oracle_bulk WHERE writer = 1", "must be"),
    ] {
        standby.sql("CREATE DATABASE copy TEMPLATE postgres");
        standby.sql_in("copy", wrong);
        let error = ledger.check_at(&standby.conninfo_in("copy"), Upto::All).unwrap_err();
        assert!(error.contains(said), "{wrong}: {error}");
        standby.sql("DROP DATABASE copy");
    }
}

/// Aim: the check fails for each way in which a restore can be wrong.
#[test]
fn every_wrong_restore_is_noticed() {
    let cluster = Cluster::builder(16).start();
    let oracle = Oracle::builder(&cluster)
        .writers(2)
        .seed(1)
        .pause(Duration::ZERO)
        .start();
    oracle.wait_for(300);
    let ledger = oracle.stop();
    ledger.check(&cluster, Upto::All).unwrap();
    let last: u64 = cluster.value("SELECT max(seq) FROM oracle WHERE writer = 0");
    let made =
        cluster.sql("SELECT relname FROM pg_class WHERE relname LIKE 'oracle\\_made%' AND relkind = 'r' LIMIT 1");
    let newer = format!("SELECT writer, {last} + g, payload, prev, hash, false FROM oracle, generate_series(1, 2) g");
    for (wrong, said) in [
        (format!("DELETE FROM oracle WHERE writer = 0 AND seq = {last}"), "I1"),
        ("DELETE FROM oracle WHERE writer = 0 AND seq = 3".to_owned(), "I2"),
        (
            "UPDATE oracle SET payload = payload || 'x' WHERE writer = 1 AND seq = 3".to_owned(),
            "I2",
        ),
        (
            format!("INSERT INTO oracle {newer} WHERE writer = 0 AND seq = {last}"),
            "I2",
        ),
        (
            format!("INSERT INTO oracle VALUES (0, {last} + 1, '', '', '', true)"),
            "rolled back",
        ),
        (format!("DROP TABLE {made}"), "agree"),
        ("DROP TABLE oracle".to_owned(), "I1"),
    ] {
        cluster.sql("CREATE DATABASE copy TEMPLATE postgres");
        cluster.sql_in("copy", &wrong);
        let error = ledger.check_at(&cluster.conninfo_in("copy"), Upto::All).unwrap_err();
        assert!(error.contains(said), "{wrong}: {error}");
        cluster.sql("DROP DATABASE copy");
    }
}
