//! Damage to stored objects, as an operator meets it: whole commands on a repository of which one object is bad, with
//! PostgreSQL as the judge. (The engine's `damage` test has the mass; docs/reliability.md, "Damage and trust".)
//!
//! Invariant under test: a restore gives exactly what it announced or is refused naming what is damaged; with a second
//! place that is good it succeeds. `PGKEEP_TEST_ALL` tries every kind of damage on every object, the gate one of each.

use std::path::Path;

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::{Cluster, Damage, Damaged, Output};
use serde_json::Value;

use crate::backup::{digest, text};
use crate::golden::Golden;

const SEED: u64 = 20_261_121;

#[test]
fn a_damaged_encrypted_repository_is_restored_exactly_or_names_what_is_damaged() {
    try_every_object("format-1-age-postgres-18");
}

#[test]
fn a_damaged_bare_repository_is_restored_exactly_or_names_what_is_damaged() {
    try_every_object("format-1-none-postgres-14");
}

fn try_every_object(name: &str) {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let golden = Golden::open(name);
    let root = golden.home.join("repository");
    let (mut restored, mut refused) = (0, 0);
    for (number, object) in objects(&root).iter().enumerate() {
        let length = std::fs::metadata(root.join(object)).unwrap().len();
        let kinds = Damage::of_every_kind(SEED + number as u64, length);
        let chosen = if all {
            0..kinds.len()
        } else {
            number % kinds.len()..number % kinds.len() + 1
        };
        for (at, damage) in kinds.into_iter().enumerate().filter(|(at, _)| chosen.contains(at)) {
            let context = format!("{name}: {object}: {damage:?}");
            println!("{context}");
            let damaged = Damaged::new(&root, object, damage);
            look(&golden, &context);
            let target = format!("restored-{number}-{at}");
            match restore(&golden, &target, &[]) {
                Ok(cluster) => {
                    // What nothing else names is not missed; the plan says where the archive ends.
                    let missed = damage == Damage::Delete && object.starts_with("wal/");
                    right(&golden, &cluster, &context, missed);
                    restored += 1;
                }
                Err(output) => {
                    assert!(names(&output, object), "{context}: not named: {output}");
                    refused += 1;
                }
            }
            drop(damaged);
        }
    }
    println!("{name}: {restored} restored, {refused} refused");
    assert!(restored > 0 && refused > 0, "{restored} restored, {refused} refused");
}

/// Aim: with a second place no damage to the first one matters, whichever object it hits.
#[test]
fn a_second_place_makes_up_for_any_damage() {
    let golden = Golden::open("format-1-age-postgres-18");
    let root = golden.home.join("repository");
    let names = objects(&root);
    for name in &names {
        let directory = Path::new("second").join(name);
        let mut path = std::path::PathBuf::new();
        for part in directory.parent().unwrap().components() {
            path.push(part);
            golden.home.dir(path.to_str().unwrap());
        }
        golden
            .home
            .file(directory.to_str().unwrap(), std::fs::read(root.join(name)).unwrap());
    }
    let toml = std::fs::read_to_string(golden.home.join("pgkeep.toml")).unwrap();
    let second = format!(
        "[repository.second]\nurl = \"file://{}\"\n",
        golden.home.join("second").display()
    );
    golden.home.file("pgkeep.toml", toml + &second);
    let damaged: Vec<Damaged> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let length = std::fs::metadata(root.join(name)).unwrap().len();
            let kinds = Damage::of_every_kind(SEED + number as u64, length);
            Damaged::new(&root, name, kinds[number % kinds.len()])
        })
        .collect();
    assert_eq!(damaged.len(), names.len());
    golden.pgkeep(["keys", "check"]).ok();
    let cluster = restore(&golden, "restored", &[]).unwrap_or_else(|output| panic!("{output}"));
    right(&golden, &cluster, "every object of the first place is damaged", false);
}

/// The commands that look: they may refuse, but neither hang nor break.
fn look(golden: &Golden, context: &str) {
    for command in [
        &["list"][..],
        &["window"],
        &["keys", "check"],
        &["wal", "list"],
        &["repository", "show"],
    ] {
        let output = golden.pgkeep(command);
        let known = matches!(output.code, Some(0 | 3 | 4 | 5 | 7 | 8));
        assert!(known && !output.stderr.contains("has a bug"), "{context}: {output}");
    }
}

/// Restores to the end of the archive; `Err` with what the command said.
fn restore(golden: &Golden, name: &str, options: &[&str]) -> Result<Cluster, Box<Output>> {
    let target = golden.home.join(name);
    let mut args = vec!["restore".to_owned(), "--into".to_owned(), target.display().to_string()];
    args.extend(options.iter().map(|option| (*option).to_owned()));
    if let Some(location) = golden.expected["tablespace"].as_str() {
        args.push("--tablespace".to_owned());
        args.push(format!("{location}={}.tablespace", target.display()));
    }
    let output = golden.pgkeep(&args);
    assert!(!output.stderr.contains("has a bug"), "{output}");
    if output.code != Some(0) {
        assert!(
            !target.join("global/pg_control").exists(),
            "it could be started: {output}"
        );
        return Err(Box::new(output));
    }
    let mut cluster = Cluster::adopt_dir(golden.major, target);
    cluster.start();
    cluster.wait_recovered();
    Ok(cluster)
}

/// The restored cluster holds what the newest moment held; an earlier one where the end of the archive went missing.
fn right(golden: &Golden, cluster: &Cluster, context: &str, earlier: bool) {
    let held: Vec<String> = ["items", "kept"].iter().map(|table| digest(cluster, table)).collect();
    let moments = golden.expected["moments"].as_array().unwrap();
    let at = |moment: &Value| vec![text(&moment["items"]), text(&moment["kept"])];
    let newest = at(moments.last().unwrap());
    let known = earlier && moments.iter().any(|moment| at(moment) == held);
    assert!(held == newest || known, "{context}: WRONG DATA");
}

/// Whether a refusal names the object, or the backup that it belongs to.
fn names(output: &Output, object: &str) -> bool {
    let parts: Vec<&str> = object.split('/').collect();
    let id = match parts[0] {
        "wal" => &parts[4][..24],
        "backups" | "packs" => parts[3],
        _ => object,
    };
    output.stderr.contains(id)
}
