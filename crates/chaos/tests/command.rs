//! The command itself: a failed cycle is red everywhere that somebody or something looks.

use std::path::Path;
use std::process::{Command, Output};

use pgkeep_testkit::Scratch;

fn chaos(pgkeep: &str, home: &Scratch, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgkeep-chaos"))
        .args(["--pgkeep", pgkeep, "--seed", "5", "--revision", "abc", "--keep"])
        .arg(home.join("kept"))
        .args(options)
        .output()
        .expect("it was built with this test")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

#[test]
fn a_failed_cycle_fails_the_run_and_stands_in_report_and_document() {
    let home = Scratch::new();
    let (report, document) = (home.join("report"), home.join("document.md"));
    let marks = "<!-- scripts/chaos --document: begin -->\n<!-- scripts/chaos --document: end -->\n";
    std::fs::write(&document, marks).expect("our own scratch");
    let paths = [&report, &document].map(|path| path.display().to_string());
    let options = ["--cycles", "3", "--report", &paths[0], "--document", &paths[1]];
    let output = chaos("/bin/false", &home, &options);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("repeat with: scripts/chaos --seed 5 --from 0 --cycles 1"),
        "{said}"
    );
    assert!(
        said.contains("1 cycles, 1 failed"),
        "it goes on after a failure only where it is told to: {said}"
    );
    assert_eq!(text(&report).lines().count(), 1);
    assert!(
        text(&document).contains("Failed: cycle 0 of seed 5"),
        "{}",
        text(&document)
    );
}

#[test]
fn no_cycle_at_all_is_no_failure() {
    let output = chaos("/bin/false", &Scratch::new(), &["--cycles", "0"]);
    assert_eq!(output.status.code(), Some(0));
}
