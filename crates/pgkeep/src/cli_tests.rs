//! What the command line promises: names, grouping, and every help text in one file.

use super::*;

#[test]
fn the_command_line_makes_sense() {
    command().debug_assert();
}

#[test]
fn every_command_stands_below_exactly_one_heading() {
    for found in Cli::command().get_subcommands() {
        let headings = GROUPS
            .iter()
            .filter(|(_, names)| names.contains(&found.get_name()))
            .count();
        assert_eq!(headings, 1, "{}", found.get_name());
    }
}

#[test]
fn global_flags_stand_before_and_behind_the_command() {
    for line in [
        ["pgkeep", "--json", "config", "check"],
        ["pgkeep", "config", "check", "--json"],
    ] {
        assert!(Cli::try_parse_from(line).unwrap().global.json);
    }
}

/// Aim: a change of wording, of a flag or of a default shows in review.
/// Renew the file with `PGKEEP_RENEW=1 cargo test -p pgkeep help`.
#[test]
fn the_help_is_what_was_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/help.txt");
    let mut text = String::new();
    write_help(&mut command().term_width(100), "pgkeep", &mut text);
    if std::env::var_os("PGKEEP_RENEW").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap_or_default();
    for (line, (new, old)) in text.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(
            new,
            old,
            "help.txt line {}: PGKEEP_RENEW=1 cargo test -p pgkeep help",
            line + 1
        );
    }
    assert_eq!(text.len(), reviewed.len(), "PGKEEP_RENEW=1 cargo test -p pgkeep help");
}

fn write_help(command: &mut clap::Command, name: &str, text: &mut String) {
    *command = std::mem::take(command).bin_name(name);
    let help: Vec<String> = command
        .render_long_help()
        .to_string()
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    let help = help.join("\n");
    // What holds everywhere is shown once.
    let own = help.split("\nEverywhere:\n").next().unwrap_or_default();
    text.push_str(&format!("===== {name}\n{}\n\n", own.trim_end()));
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for sub in names.iter().filter(|sub| *sub != "help") {
        let path = format!("{name} {sub}");
        let sub = command.find_subcommand_mut(sub).expect("it was just listed");
        *sub = std::mem::take(sub).term_width(100);
        write_help(sub, &path, text);
    }
}
