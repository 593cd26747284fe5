//! The reference page of the configuration, made from the table of keys.

use std::fmt::Write;

use super::keys::{KEYS, Key};

const HEAD: &str = "\
<!-- Made by `pgkeep config reference`; a test fails where they differ, and says how to renew it. -->
# Configuration

A TOML file: `--config FILE`, else `$PGKEEP_CONFIG`, `./pgkeep.toml`, `$XDG_CONFIG_HOME/pgkeep/pgkeep.toml`, `/etc/pgkeep/pgkeep.toml`.
Flags override the environment, the environment overrides the file, the file overrides defaults; `pgkeep config show --effective` prints each value and where it came from. Unknown keys are errors.

Every key can be given in the environment: `PGKEEP_` and its path in upper case, with `__` between levels. `repository.main.url` is `PGKEEP_REPOSITORY__MAIN__URL`; a `-` in a name is written `_`. Lists are separated by commas.
`PGKEEP_CONFIG` names the file, `PGKEEP_IDENTITY_FILE` the identity, and `PGKEEP_LOG` what is logged (`debug`, `pgkeep_engine=trace`). libpq's and `AWS_*` variables are honoured unchanged.

`NAME` is a name that you give: 1 to 63 of `a-z 0-9 _ -`, beginning with a letter or digit. Relative paths belong to the directory of the configuration file. Lengths of time are written `90 s`, `5 minutes`, `1 hour 30 minutes`, `2 days`; sizes `64 MiB`, `2 TB`.
Secrets stand in files that keys name, in libpq's `passfile`, or in the environment; a password in a connection string works, is never shown, and is better elsewhere.
";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut section = None;
    for key in KEYS {
        let (table, name) = split(key);
        if section != Some(table) {
            let title = if table.is_empty() {
                "Top level".to_owned()
            } else {
                format!("`[{table}]`")
            };
            write!(page, "\n## {title}\n\n| key | takes | default | |\n|---|---|---|---|\n").expect("strings grow");
            section = Some(table);
        }
        let default = match key.literal_default() {
            Some(value) => format!("`{value}`"),
            None => key.default.trim_matches(['<', '>']).to_owned(),
        };
        writeln!(
            page,
            "| `{name}` | {} | {default} | {} |",
            key.kind.describe(),
            key.about
        )
        .expect("strings grow");
    }
    page
}

/// A key's table and its name below it; `objectives` are written inline.
fn split(key: &Key) -> (&'static str, &'static str) {
    let levels = if key.path.contains(".NAME.") { 2 } else { 1 };
    match key.path.match_indices('.').nth(levels - 1) {
        Some((at, _)) => (&key.path[..at], &key.path[at + 1..]),
        None => ("", key.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renew the page with `PGKEEP_RENEW=1 cargo test -p pgkeep reference`.
    #[test]
    fn the_reference_page_is_not_stale() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/configuration.md");
        if std::env::var_os("PGKEEP_RENEW").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference")).unwrap();
            std::fs::write(path, page()).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == page(),
            "docs/reference/configuration.md is stale: PGKEEP_RENEW=1 cargo test -p pgkeep reference"
        );
    }
}
