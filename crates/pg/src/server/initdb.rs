//! Creates clusters with `initdb`.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use pgkeep_base::{Error, Result, ResultExt, SegmentSize};

use super::Account;
use crate::binaries::Binaries;

/// What the new cluster shall be like. Encoding is UTF8, locale C.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Page checksums.
    pub data_checksums: bool,
    /// The unit of archiving.
    pub wal_segment_size: SegmentSize,
    /// The superuser.
    pub username: String,
    /// Let every local user log in as anyone: for clusters whose socket directory is private.
    pub trust: bool,
    /// Make the new files durable: needless for scratch clusters.
    pub sync: bool,
}

impl Default for InitOptions {
    /// A scratch cluster with checksums and superuser `postgres`, for a private socket directory.
    fn default() -> InitOptions {
        InitOptions {
            data_checksums: true,
            wal_segment_size: SegmentSize::DEFAULT,
            username: "postgres".into(),
            trust: true,
            sync: false,
        }
    }
}

/// Creates a cluster in `data_dir`, which is created with mode 0700 if it doesn't exist, and given to `account`.
///
/// # Errors
/// `Refused` if the directory holds anything; `Io` with initdb's words if it fails.
pub fn initdb(binaries: &Binaries, account: &Account, data_dir: &Path, options: &InitOptions) -> Result<()> {
    prepare(data_dir, account).during(|| format!("prepare data directory {}", data_dir.display()))?;
    let mut command = binaries.command("initdb")?;
    command
        .arg("--pgdata")
        .arg(data_dir)
        .args(["--no-locale", "--encoding=UTF8", "--username", &options.username])
        .arg(match options.trust {
            true => "--auth=trust",
            false => "--auth=peer",
        })
        .arg(format!("--wal-segsize={}", options.wal_segment_size.bytes() >> 20));
    match options.data_checksums {
        true => _ = command.arg("--data-checksums"),
        // Checksums became the default in 18, together with the word against them.
        false if binaries.major().get() >= 18 => _ = command.arg("--no-data-checksums"),
        false => {}
    }
    if !options.sync {
        command.arg("--no-sync");
    }
    account.apply(&mut command);
    let output = command
        .current_dir(data_dir)
        .stdin(Stdio::null())
        .output()
        .during(|| "run initdb")?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(
        Error::io(format!("initdb could not create a cluster in {}", data_dir.display()))
            .detail(lines[lines.len().saturating_sub(6)..].join("; ")),
    )
}

fn prepare(data_dir: &Path, account: &Account) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(data_dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(data_dir)?.next().is_some() {
                return Err(Error::refused("the directory is not empty"));
            }
            std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(0o700))?;
        }
        Err(error) => return Err(error.into()),
    }
    account.own(data_dir)
}
