//! `pgkeep show ID`: all that is known of one backup, or how it differs from another. Needs no identity.

use pgkeep_base::{BackupId, ByteSize, Error, Result, ResultExt};
use pgkeep_engine::catalogue::{self, Backup, Catalogue};
use serde::Serialize;
use serde_json::{Map, Value};

use super::entry::Entry;
use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::table::Table;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Show one backup
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its id, or `latest`
    id: String,
    /// Show what differs from this backup
    #[arg(long, value_name = "ID2")]
    diff: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    entry: Entry,
    /// The signed head, as it is in storage.
    head: Value,
    signer: String,
    trusted: bool,
}

#[derive(Serialize)]
struct Difference {
    from: BackupId,
    to: BackupId,
    fields: Vec<Field>,
}

#[derive(Serialize)]
struct Field {
    name: String,
    from: Value,
    to: Value,
}

impl View for Shown {
    fn text(&self, page: &mut Page) {
        for (name, value) in self.head.as_object().into_iter().flatten() {
            page.field(name, shown(name, value));
        }
        page.field(
            "signer",
            if self.trusted {
                self.signer.clone()
            } else {
                format!("{} (not trusted)", self.signer)
            },
        );
    }
}

impl View for Difference {
    fn text(&self, page: &mut Page) {
        let mut table = Table::new(["field", "from", "to"]);
        for field in &self.fields {
            table.row([
                field.name.clone(),
                shown(&field.name, &field.from),
                shown(&field.name, &field.to),
            ]);
        }
        page.line(format!("{} -> {}", self.from, self.to));
        page.table(&table, "the heads don't differ");
    }
}

/// A member of a head, for people.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim_end().replace('\n', "; "),
        Value::Number(number) if name.ends_with("_bytes") => number
            .as_u64()
            .map_or_else(|| number.to_string(), |bytes| format!("{} ({bytes})", ByteSize(bytes))),
        Value::Array(items) => items.iter().map(|item| shown("", item)).collect::<Vec<_>>().join(", "),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| format!("{key}={}", shown(key, value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// Shows.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let engine = assemble::engine(context, &Wishes::default())?.engine;
    let catalogue =
        runtime::run(Threads::Two, catalogue::load(&engine, None)).during(|| "could not list the backups")?;
    let backup = find(&catalogue, &arguments.id)?;
    match &arguments.diff {
        None => context.output.print(&Shown {
            entry: Entry::of_head(backup.head(), &backup.places),
            head: Value::Object(members(backup)?),
            signer: backup.verified.signer.to_string(),
            trusted: backup.verified.trusted,
        })?,
        Some(other) => {
            let other = find(&catalogue, other)?;
            context.output.print(&Difference {
                from: other.head().id.clone(),
                to: backup.head().id.clone(),
                fields: differing(&members(other)?, &members(backup)?),
            })?;
        }
    }
    Ok(Outcome::Done)
}

/// A backup by its id, or the newest.
///
/// # Errors
/// `NotFound`; what is wrong with its head.
pub fn find<'a>(catalogue: &'a Catalogue, id: &str) -> Result<&'a Backup> {
    if id == "latest" {
        return catalogue
            .newest()
            .ok_or_else(|| Error::not_found("there is no backup yet").hint("`pgkeep backup` makes the first one."));
    }
    catalogue.get(&id.parse()?)
}

fn members(backup: &Backup) -> Result<Map<String, Value>> {
    match serde_json::to_value(backup.head()) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Error::internal("a head could not be shown as JSON")),
    }
}

fn differing(from: &Map<String, Value>, to: &Map<String, Value>) -> Vec<Field> {
    let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let value = |of: &Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
    names
        .into_iter()
        .map(|name| Field {
            name: name.clone(),
            from: value(from, name),
            to: value(to, name),
        })
        .filter(|field| field.from != field.to)
        .collect()
}
