//! Claims about reading an `archive_command`.

use super::*;
use crate::doctor::Status;

const WANTED: &str = "/usr/bin/pgkeep --config /etc/pk.toml wal push %p";

fn status(command: &str) -> Status {
    judge(command, WANTED, Some(Path::new("/etc/pk.toml"))).status
}

#[test]
fn what_pgkeep_itself_would_set_passes_however_it_is_quoted() {
    for command in [
        WANTED,
        "/usr/bin/pgkeep --config=/etc/pk.toml wal push %p",
        "/usr/bin/pgkeep wal push --config '/etc/pk.toml' \"%p\"",
        "PGKEEP_CONFIG=/etc/pk.toml /usr/bin/pgkeep wal push %p",
        "timeout 60 /usr/bin/pgkeep wal push %p --config /etc/pk.toml",
        "/usr/bin/pgkeep --config /etc/pk.toml wal push %p >>/tmp/log 2>&1",
        "/usr/bin/test -d /mnt && /usr/bin/pgkeep --config /etc/pk.toml wal push %p",
    ] {
        assert_eq!(status(command), Status::Pass, "{command}");
    }
}

#[test]
fn a_command_that_can_hide_a_failure_fails() {
    for tail in ["|| true", "; true", "| cat", "& ", "|| logger failed", "\nexit 0"] {
        assert_eq!(status(&format!("{WANTED} {tail}")), Status::Fail, "{tail:?}");
    }
    let command = "test -f /tmp/off || /usr/bin/pgkeep --config /etc/pk.toml wal push %p";
    assert_eq!(status(command), Status::Fail);
    assert_eq!(
        status("/usr/bin/pgkeep --config '/etc/a|b;c' wal push %p"),
        Status::Warn,
        "quoted operators are text"
    );
}

#[test]
fn what_does_not_push_fails_and_what_can_not_be_seen_is_advice() {
    for command in [
        "/bin/true",
        ":",
        "exit 0",
        "cp %p /backup/%f",
        "test ! -f /a/%f && cp %p /a/%f",
        "pgbackrest archive-push %p",
        "",
    ] {
        assert_eq!(status(command), Status::Fail, "{command}");
    }
    assert_eq!(status("/usr/local/bin/archive.sh %p"), Status::Warn);
}

#[test]
fn the_path_must_be_passed_and_the_program_and_configuration_be_certain() {
    assert_eq!(
        status("/usr/bin/pgkeep --config /etc/pk.toml wal push %f"),
        Status::Fail
    );
    assert_eq!(status("/usr/bin/pgkeep --config /etc/pk.toml wal push"), Status::Fail);
    assert_eq!(status("pgkeep --config /etc/pk.toml wal push %p"), Status::Warn);
    assert_eq!(
        status("/usr/bin/pgkeep --config /etc/other.toml wal push %p"),
        Status::Warn
    );
    assert_eq!(status("/usr/bin/pgkeep wal push %p"), Status::Warn);
    assert_eq!(
        judge(
            "/a/pgkeep wal push %p",
            WANTED,
            Some(Path::new("/etc/pgkeep/pgkeep.toml"))
        )
        .status,
        Status::Pass
    );
    assert_eq!(judge(WANTED, WANTED, None).status, Status::Warn);
}

#[test]
fn words_are_those_of_the_shell() {
    let parsed = parse("A=1 '/opt/my tools/pgkeep' --config /a%%b/\\ c wal push %p");
    assert_eq!(parsed.program, Some("/opt/my tools/pgkeep".into()));
    assert_eq!(parsed.config, Some("/a%b/ c".into()));
    assert!(parsed.pushes && parsed.has_path && parsed.hides_failure.is_none());
    assert_eq!(parse("'unfinished").program, Some("unfinished".into()));
    assert_eq!(parse("").program, None);
}

#[test]
fn the_fix_is_a_statement_that_sets_exactly_the_command() {
    let fix = setting("/usr/bin/pgkeep --config '/a b.toml' wal push %p");
    assert_eq!(
        fix,
        "ALTER SYSTEM SET archive_command = '/usr/bin/pgkeep --config ''/a b.toml'' wal push %p'; SELECT pg_reload_conf();"
    );
}
