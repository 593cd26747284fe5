//! The proof: every row of every table, the tables' structure, every index entry.

use pgkeep_base::{Result, ResultExt};

use super::act::write_rows;
use super::compare::{Comparison, compare};
use super::stage::{SHOP, Stage, Told, unproven};

/// What was written down, and how many columns tell its rows apart.
const WRITTEN: [(&str, usize); 6] = [
    ("accounts", 1),
    ("orders", 1),
    ("events", 1),
    ("attachments", 1),
    ("digests", 1),
    ("structure", 3),
];
/// The first so many of them are tables.
const TABLES: usize = 4;

/// Compares everything that was written down before the disaster with the restored cluster.
pub async fn every_row(stage: &mut Stage) -> Result<Told> {
    let server = stage.restored.clone();
    write_rows(stage, &server, "after").await?;
    let [before, after] = ["before", "after"].map(|name| stage.scratch().path(name));
    stage.record(format!("diff -r {} {}", before.display(), after.display()));
    let mut rows = 0;
    for (number, (name, key_columns)) in WRITTEN.into_iter().enumerate() {
        let read = |dir: &std::path::Path| {
            let file = dir.join(name);
            std::fs::read_to_string(&file).during(|| format!("read {}", file.display()))
        };
        let found = compare(&read(&before)?, &read(&after)?, key_columns);
        check(name, &found)?;
        if number < TABLES {
            rows += found.equal;
        }
    }
    let indexes = check_indexes(stage).await?;
    Ok(Told::new(format!(
        "{rows} of {rows} rows are as they were: none missing, none extra, none changed{indexes}"
    )))
}

fn check(name: &str, found: &Comparison) -> Result<()> {
    if found.is_clean() && found.equal > 0 {
        return Ok(());
    }
    Err(
        unproven(format!("{name} is not as it was before the disaster")).detail(format!(
            "{} rows equal, {} missing, {} extra, {} changed: {}",
            found.equal,
            found.missing,
            found.extra,
            found.changed,
            found.first.as_deref().unwrap_or("no rows at all")
        )),
    )
}

/// Has PostgreSQL check its indexes against their tables, where its `amcheck` is installed.
async fn check_indexes(stage: &mut Stage) -> Result<String> {
    let server = stage.restored.clone();
    let known = stage
        .ask(
            &server,
            SHOP,
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'",
        )
        .await?;
    if known != "1" {
        return Ok(String::new());
    }
    let file = stage
        .scratch()
        .write("sql/indexes.sql", include_str!("sql/indexes.sql"))?;
    let said = stage.psql_file(&server, SHOP, &file, &[]).await?;
    let answers: Vec<&str> = said.stdout.split_whitespace().collect();
    match answers[..] {
        [indexes, "0"] => Ok(format!("; {indexes} B-trees match their tables")),
        _ => Err(unproven("amcheck found bad pages in the restored cluster").detail(said.stdout)),
    }
}
