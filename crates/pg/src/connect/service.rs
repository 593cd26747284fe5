//! Reads a section of libpq's connection service file (`pg_service.conf`).
//!
//! The files are tried in libpq's order: `PGSERVICEFILE`, else `~/.pg_service.conf`; then the system's.

use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt};

use super::Environment;
use super::conninfo::Pairs;

/// Where the distributions compile in libpq's system-wide directory.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"];

/// The settings of service `name`.
///
/// # Errors
/// `NotFound` if no file has such a section; `Invalid` for a line that can't be read.
pub(super) fn lookup(name: &str, environment: Environment<'_>, home: Option<&Path>) -> Result<Pairs> {
    let user_file = environment("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| Some(home?.join(".pg_service.conf")));
    let system = match environment("PGSYSCONFDIR") {
        Some(dir) => vec![PathBuf::from(dir)],
        None => SYSTEM_DIRECTORIES.iter().map(PathBuf::from).collect(),
    };
    let files: Vec<PathBuf> = user_file
        .into_iter()
        .chain(system.into_iter().map(|dir| dir.join("pg_service.conf")))
        .collect();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else {
            continue;
        };
        if let Some(pairs) = section(&text, name).during(|| format!("read {}", file.display()))? {
            return Ok(pairs);
        }
    }
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(Error::not_found(format!("there is no connection service \"{name}\""))
        .detail(format!("looked in {}", looked.join(", ")))
        .hint("Correct `service` or PGSERVICE, then run `pgkeep config check`."))
}

fn section(text: &str, name: &str) -> Result<Option<Pairs>> {
    let mut found: Option<Pairs> = None;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']') == Some(name) {
                found = Some(Pairs::new());
            }
        } else if let Some(pairs) = &mut found {
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| Error::invalid(format!("\"{line}\" lacks its \"=\"")))?;
            if key.trim() == "service" {
                return Err(Error::invalid("a service can't name another service"));
            }
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[a]\nhost=/tmp\n\n[b]\nport = 5433\ndbname=x=y\n[a]\nhost=never\n";

    #[test]
    fn only_the_first_section_of_the_name_counts() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(section(FILE, "a").unwrap(), Some(vec![pair("host", "/tmp")]));
        assert_eq!(
            section(FILE, "b").unwrap(),
            Some(vec![pair("port", "5433"), pair("dbname", "x=y")])
        );
        assert_eq!(section(FILE, "c").unwrap(), None);
        assert!(section("[a]\nnonsense", "a").is_err());
        assert!(section("[a]\nservice=b", "a").is_err());
    }

    #[test]
    fn a_missing_service_says_where_it_was_sought() {
        let environment = |name: &str| (name == "PGSERVICEFILE").then(|| "/nonexistent/pg_service.conf".to_owned());
        let error = lookup("nope", &environment, None).unwrap_err();
        assert!(error.detail_text().unwrap().contains("/nonexistent/pg_service.conf"));
    }
}
