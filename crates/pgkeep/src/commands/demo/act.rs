//! The story up to the disaster: load, backups, business, a dropped table.

use std::ffi::OsStr;

use pgkeep_base::{ByteSize, Error, Result};
use serde_json::Value;

use super::stage::{SHOP, Stage, Told, unproven};

/// Makes the database and fills it.
pub async fn load(stage: &mut Stage) -> Result<Told> {
    let file = stage.scratch().write("sql/load.sql", include_str!("sql/load.sql"))?;
    let (server, fast) = (stage.source.clone(), stage.scratch().path("fast"));
    stage.psql_file(&server, "postgres", &file, &[("fast", &fast)]).await?;
    let rows = rows(stage).await?;
    let indexes = stage
        .ask(
            &server,
            SHOP,
            "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'",
        )
        .await?;
    let size = stage.ask(&server, SHOP, "SELECT pg_database_size('shop')").await?;
    let size = ByteSize(size.parse().unwrap_or(0));
    Ok(Told::new(format!(
        "{rows} rows in 4 tables, {indexes} indexes, jsonb, TOAST, a second tablespace: {size}"
    )))
}

/// The first backup, which stores everything.
pub async fn backup(stage: &mut Stage) -> Result<Told> {
    let taken = take_backup(stage).await?;
    stage.first_backup_bytes = taken.new_bytes;
    Ok(Told::new(format!(
        "{} read, {} stored, compressed and encrypted",
        taken.source,
        ByteSize(taken.new_bytes)
    )))
}

/// Changes of all kinds.
pub async fn more_load(stage: &mut Stage) -> Result<Told> {
    let file = stage.scratch().write("sql/more.sql", include_str!("sql/more.sql"))?;
    let server = stage.source.clone();
    stage.psql_file(&server, SHOP, &file, &[]).await?;
    let rows = rows(stage).await?;
    Ok(Told::new(format!("rows inserted, updated and deleted: {rows} now")))
}

/// The second backup, which stores what changed and can be restored alone all the same.
pub async fn incremental_backup(stage: &mut Stage) -> Result<Told> {
    let taken = take_backup(stage).await?;
    let (new, first) = (ByteSize(taken.new_bytes), ByteSize(stage.first_backup_bytes));
    if new >= first {
        return Err(
            unproven("the second backup stored no less than the first").detail(format!("first {first}, second {new}"))
        );
    }
    Ok(Told::new(format!(
        "{} read, {new} added; it can be restored without the first",
        taken.source
    )))
}

struct Taken {
    source: ByteSize,
    new_bytes: u64,
}

async fn take_backup(stage: &mut Stage) -> Result<Taken> {
    let document = stage.pgkeep_json(&["backup".as_ref(), SHOP.as_ref()]).await?;
    let number = |key: &str| document.get(key).and_then(Value::as_u64).ok_or_else(|| lacks(key));
    let end = document
        .get("stop_lsn")
        .and_then(Value::as_str)
        .ok_or_else(|| lacks("stop_lsn"))?;
    stage.backup_end = end.parse()?;
    Ok(Taken {
        source: ByteSize(number("source_bytes")?),
        new_bytes: number("new_bytes")?,
    })
}

fn lacks(key: &str) -> Error {
    Error::internal(format!("what `pgkeep` printed has no \"{key}\" of the expected kind"))
}

/// Transactions that are in no backup.
pub async fn business(stage: &mut Stage) -> Result<Told> {
    let file = stage
        .scratch()
        .write("sql/business.sql", include_str!("sql/business.sql"))?;
    let server = stage.source.clone();
    stage.psql_file(&server, SHOP, &file, &[]).await?;
    Ok(Told::new(
        "101 transactions after the last backup: only the archived WAL has them",
    ))
}

/// Writes down every row, asks for the time, and drops a table.
pub async fn drop_table(stage: &mut Stage) -> Result<Told> {
    let server = stage.source.clone();
    write_rows(stage, &server, "before").await?;
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    stage.moment = stage.ask(&server, SHOP, now).await?;
    let file = stage.scratch().write("sql/drop.sql", include_str!("sql/drop.sql"))?;
    stage.psql_file(&server, SHOP, &file, &[]).await?;
    stage.pgkeep_well(&["mark".as_ref(), "noticed".as_ref()]).await?;
    Ok(Told::new(format!(
        "every row written down at {}, then DROP TABLE orders, noticed too late",
        stage.moment
    )))
}

/// Writes all rows of a server into a directory.
pub async fn write_rows(stage: &mut Stage, server: &super::stage::Server, directory: &str) -> Result<()> {
    let file = stage.scratch().write("sql/rows.sql", include_str!("sql/rows.sql"))?;
    let into = stage.scratch().path(directory);
    stage.psql_file(server, SHOP, &file, &[("into", &into)]).await.map(drop)
}

/// Where one can return to.
pub async fn window(stage: &mut Stage) -> Result<Told> {
    let listed = stage.pgkeep_json(&["list".as_ref()]).await?;
    let backups = listed["backups"].as_array().map_or(0, Vec::len);
    if backups != 2 {
        return Err(unproven(format!("{backups} backups are listed, where 2 were taken")));
    }
    let document = stage.pgkeep_json(&["window".as_ref(), SHOP.as_ref()]).await?;
    let window = &document["clusters"][0];
    let gaps = window["gaps"].as_array().map_or(0, Vec::len);
    let (from, to) = (&window["ranges"][0]["from"], &window["ranges"][0]["to"]);
    match (from.as_str(), to.as_str(), gaps) {
        (Some(from), Some(to), 0) => Ok(Told::new(format!(
            "2 backups; any moment from {from} to {to} can be reached"
        ))),
        _ => Err(unproven("the window is not whole").detail(window.to_string())),
    }
}

async fn rows(stage: &Stage) -> Result<String> {
    let sql = "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM orders) \
               + (SELECT count(*) FROM events) + (SELECT count(*) FROM attachments)";
    stage.ask(&stage.source, SHOP, sql).await
}

/// Arguments for a command that restores the shop into a directory of the demo.
pub fn restore_arguments<'a>(into: &'a OsStr, move_fast: &'a OsStr, more: &[&'a OsStr]) -> Vec<&'a OsStr> {
    let mut arguments: Vec<&OsStr> = ["restore", SHOP, "--into"].map(OsStr::new).to_vec();
    arguments.extend([into, OsStr::new("--tablespace"), move_fast]);
    arguments.extend(more);
    arguments
}
