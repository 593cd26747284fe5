//! The scene: a cluster that archives through pgkeep, keys, a configuration, an encrypted repository.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgkeep_base::{Result, ResultExt};
use pgkeep_pg::server::last_complaints;
use pgkeep_pg::settings::guc::quote as quote_setting;

use super::program;
use super::stage::{SHOP, Stage, Told};

/// Makes the cluster and starts it.
pub async fn start_cluster(stage: &mut Stage) -> Result<Told> {
    for name in ["run", "fast", "sql", "before", "after"] {
        stage.scratch().make_directory(name)?;
    }
    let data = stage.source.data.clone();
    let mut arguments = [OsStr::new("-D"), data.as_os_str()].to_vec();
    let flags = [
        "--no-locale",
        "--encoding=UTF8",
        "--username=postgres",
        "--auth=trust",
        "--data-checksums",
        "--no-sync",
    ];
    arguments.extend(flags.map(OsStr::new));
    stage.postgres("initdb", &arguments, true).await?;
    let settings = settings(stage)?;
    let file = data.join("postgresql.conf");
    let mut conf = std::fs::File::options()
        .append(true)
        .open(&file)
        .during(|| format!("open {}", file.display()))?;
    conf.write_all(settings.as_bytes())
        .during(|| format!("write {}", file.display()))?;
    let log = stage.scratch().path("data.log");
    let arguments = [
        OsStr::new("-D"),
        data.as_os_str(),
        OsStr::new("-l"),
        log.as_os_str(),
        OsStr::new("-w"),
        OsStr::new("start"),
    ];
    let started = stage.postgres("pg_ctl", &arguments, true).await;
    started.map_err(|error| error.during(last_complaints(&log).join(" | ")))?;
    Ok(Told::new(
        "a cluster with page checksums, which archives its WAL through pgkeep",
    ))
}

/// What the cluster is told beyond initdb's defaults.
fn settings(stage: &Stage) -> Result<String> {
    let [program, config] = [stage.program(), &stage.config()].map(|path| program::quote(&path.display().to_string()));
    // PostgreSQL puts the path of the segment in place of %p, and one percent sign in place of two.
    let archive = format!("{program} --config {config}").replace('%', "%%") + " wal push %p";
    let port = stage.source.port.to_string();
    let run = stage.source.socket_dir.display().to_string();
    let settings = [
        ("listen_addresses", ""),
        ("unix_socket_directories", &run),
        // The restored cluster has these settings too, and its socket is where everybody gets.
        ("unix_socket_permissions", "0700"),
        ("port", &port),
        ("archive_mode", "on"),
        ("archive_command", &archive),
        // Containers often have little shared memory beyond what the server allocates when it starts.
        ("max_parallel_workers_per_gather", "0"),
        ("max_parallel_maintenance_workers", "0"),
    ];
    let line = |(name, value): &(&str, &str)| Ok(format!("{name} = {}\n", quote_setting(value)?));
    settings.iter().map(line).collect()
}

/// Makes the identity, and a configuration that seals to it.
pub async fn make_keys(stage: &mut Stage) -> Result<Told> {
    let identity = stage.scratch().path("identity.txt");
    let said = stage
        .pgkeep_well(&["keys".as_ref(), "new".as_ref(), identity.as_os_str()])
        .await?;
    let recipient = said.stdout.trim();
    let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let connection = format!(
        "host='{}' port={} user=postgres dbname=postgres",
        stage.source.socket_dir.display(),
        stage.source.port
    );
    let config = format!(
        "state_dir = {}\npostgres_bin = {}\n\n[encryption]\nrecipients = [\"{recipient}\"]\n\n\
         [repository.main]\nurl = {}\n\n[cluster.{SHOP}]\nconnection = {}\n\n[restore]\nidentity_file = {}\n",
        text(&stage.scratch().path("state")),
        text(stage.binaries().bin_dir()),
        toml::Value::String(file_url(&stage.scratch().path("repository"))),
        toml::Value::String(connection),
        text(&identity),
    );
    stage.scratch().write("pgkeep.toml", &config)?;
    Ok(Told::new(format!(
        "an identity in identity.txt; pgkeep.toml seals everything to {recipient}"
    )))
}

/// A directory as a URL.
fn file_url(path: &Path) -> String {
    let mut url = "file://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

/// Creates the repository.
pub async fn create_repository(stage: &mut Stage) -> Result<Told> {
    stage.pgkeep_well(&["repository".as_ref(), "create".as_ref()]).await?;
    Ok(Told::new(
        "an encrypted repository in a directory; storing in it needs no secret",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_any_name_is_a_url() {
        assert_eq!(file_url(Path::new("/tmp/a-b_c.d")), "file:///tmp/a-b_c.d");
        assert_eq!(file_url(Path::new("/it's %ä")), "file:///it%27s%20%25%C3%A4");
    }
}
