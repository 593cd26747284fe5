//! The golden repositories: what an earlier pgkeep wrote must always restore.
//!
//! Each directory of `tests/golden` is a repository of one format version with all that its owner would have: the
//! repository file, the identity, and in `expected.json` what `list` said and what the tables held at three moments.
//! Rule: a golden repository is never made again for its format version; a new version gets new ones beside them, by
//! `scripts/make-golden`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::{Shop, reachable};
use pgkeep_testkit::postgres::bin_dir;
use pgkeep_testkit::{Cluster, OsUser, Output, Run, Scratch};
use serde_json::{Value, json};

use crate::backup::{backup, digest, text};
use crate::shop;

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Format 1, unencrypted, written by PostgreSQL 14.
#[test]
fn a_bare_repository_of_format_1_restores() {
    Golden::open("format-1-none-postgres-14").check();
}

/// Format 1, encrypted, with a tablespace, written by PostgreSQL 18.
#[test]
fn an_encrypted_repository_of_format_1_restores() {
    Golden::open("format-1-age-postgres-18").check();
}

/// A copy of a golden repository, with a configuration around it as on a recovery host.
pub struct Golden {
    pub home: Scratch,
    pub expected: Value,
    pub major: u16,
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        let from = golden_dir(name);
        let home = Scratch::new();
        for file in objects(&from) {
            let mut dir = PathBuf::new();
            for part in Path::new(&file).parent().into_iter().flat_map(Path::components) {
                dir.push(part);
                home.dir(dir.to_str().unwrap());
            }
            home.file(&file, fs::read(from.join(&file)).unwrap());
        }
        let expected: Value = serde_json::from_str(&fs::read_to_string(from.join("expected.json")).unwrap()).unwrap();
        let major = expected["major"].as_u64().unwrap() as u16;
        let at = |name: &str| home.join(name).display().to_string();
        let mut toml = format!(
            "state_dir = \"{}\"\n[repository.main]\nurl = \"file://{}\"\n[cluster.shop]\npostgres_bin = \"{}\"\n",
            at("state"),
            at("repository"),
            bin_dir(major).display()
        );
        if home.join("identity.txt").exists() {
            fs::set_permissions(home.join("identity.txt"), fs::Permissions::from_mode(0o600)).unwrap();
            toml += &format!("[restore]\nidentity_file = \"{}\"\n", at("identity.txt"));
        } else {
            toml += "[encryption]\nmode = \"none\"\n";
        }
        home.file("pgkeep.toml", toml);
        Golden { home, expected, major }
    }

    pub fn pgkeep<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let run = Run::new(reachable(env!("CARGO_BIN_EXE_pgkeep"))).as_user(OsUser::unprivileged());
        let run = run
            .env("HOME", self.home.path())
            .env("LD_LIBRARY_PATH", bin_dir(self.major).with_file_name("lib"));
        run.arg("--config").arg(self.home.join("pgkeep.toml")).args(args).run()
    }

    fn check(&self) {
        let list = self.pgkeep(["--json", "list"]).ok().json();
        assert_eq!(list["backups"].as_array().unwrap().len(), 2);
        for (now, then) in list["backups"]
            .as_array()
            .unwrap()
            .iter()
            .zip(self.expected["backups"].as_array().unwrap())
        {
            for (key, value) in then.as_object().unwrap() {
                assert_eq!(now[key], *value, "{key}");
            }
        }
        self.pgkeep(["keys", "check"]).ok();
        let window = self.pgkeep(["--json", "window"]).ok().json();
        assert_eq!(window["clusters"][0]["gaps"], json!([]), "{window}");
        for (number, moment) in self.expected["moments"].as_array().unwrap().iter().enumerate() {
            self.check_moment(moment, &format!("restored-{number}"));
        }
    }

    fn check_moment(&self, moment: &Value, name: &str) {
        let target = self.home.join(name);
        let mut args = vec!["restore".to_owned(), "--into".to_owned(), target.display().to_string()];
        args.extend(moment["restore"].as_array().unwrap().iter().map(text));
        if let Some(location) = self.expected["tablespace"].as_str() {
            args.push("--tablespace".to_owned());
            args.push(format!("{location}={}.tablespace", target.display()));
        }
        self.pgkeep(&args).ok();
        let mut cluster = Cluster::adopt_dir(self.major, target);
        cluster.start();
        cluster.wait_recovered();
        for table in ["items", "kept"] {
            assert_eq!(digest(&cluster, table), text(&moment[table]), "{table} after {args:?}");
        }
    }
}

/// Not a claim: makes a golden repository where `PGKEEP_MAKE_GOLDEN` says, for `scripts/make-golden`.
#[test]
fn make() {
    if let Some(dir) = std::env::var_os("PGKEEP_MAKE_GOLDEN") {
        let dir = Path::new(&dir);
        make_golden(
            shop(14).unencrypted().start(),
            &dir.join("format-1-none-postgres-14"),
            None,
        );
        make_golden(shop(18).start(), &dir.join("format-1-age-postgres-18"), Some("kept"));
    }
}

fn make_golden(shop: Shop, to: &Path, tablespace: Option<&str>) {
    assert!(!to.exists(), "{} is never made again", to.display());
    shrink(&shop.cluster);
    let location = tablespace.map(|name| shop.cluster.create_tablespace(name));
    let place = tablespace.map(|name| format!("TABLESPACE {name}")).unwrap_or_default();
    shop.cluster.sql(&format!(
        "CREATE TABLE kept {place} AS SELECT i, 'row ' || i AS name FROM generate_series(1, 500) i;
         CREATE TABLE items (id int PRIMARY KEY, name text, large text);
         INSERT INTO items SELECT i, md5(i::text), NULL FROM generate_series(1, 1000) i;
         INSERT INTO items SELECT 0, 'toast', string_agg(md5(i::text), '') FROM generate_series(1, 300) i;
         VACUUM FREEZE"
    ));
    let mut moments = Vec::new();
    let mut remember = |restore: Value| {
        moments.push(json!({
            "restore": restore,
            "items": digest(&shop.cluster, "items"),
            "kept": digest(&shop.cluster, "kept"),
        }));
    };
    let first = text(&backup(&shop, &["--label", "golden=first", "--tier", "daily"])["id"]);
    remember(json!(["--backup", first, "--immediate", "--action", "promote"]));
    shop.cluster
        .sql("UPDATE items SET name = 'changed' WHERE id % 100 = 0; DELETE FROM kept WHERE i > 490");
    backup(&shop, &[]);
    shop.cluster
        .sql("INSERT INTO items VALUES (-1, 'before the restore point', NULL)");
    shop.pgkeep(["mark", "golden"]).ok();
    remember(json!(["--restore-point", "golden", "--action", "promote"]));
    shop.cluster
        .sql("INSERT INTO items VALUES (-2, 'after the restore point', NULL)");
    shop.cluster.archive_all();
    remember(json!(["--latest"]));
    let backups = shop.pgkeep(["--json", "list"]).ok().json()["backups"].clone();
    let expected = json!({
        "major": shop.cluster.major(),
        "tablespace": location,
        "backups": backups,
        "moments": moments,
    });
    let oldest_needed = first_segment(&shop, &text(&backups[0]["start_lsn"]));
    write_out(&shop, to, &oldest_needed, &expected);
}

/// Takes away what a cluster can live without: two of three databases, descriptions, the information schema.
fn shrink(cluster: &Cluster) {
    cluster.sql(
        "SET allow_system_table_mods = on;
         UPDATE pg_database SET datistemplate = false;
         DROP DATABASE template0;
         DROP DATABASE template1;
         TRUNCATE pg_description;
         TRUNCATE pg_shdescription;
         SET client_min_messages = error;
         DROP SCHEMA information_schema CASCADE",
    );
    cluster.sql("VACUUM FULL");
}

/// The segment that holds an LSN.
fn first_segment(shop: &Shop, lsn: &str) -> String {
    shop.cluster.sql(&format!("SELECT pg_walfile_name('{lsn}')"))
}

/// Copies all that a recovery needs, without WAL from before the first backup.
fn write_out(shop: &Shop, to: &Path, oldest_needed: &str, expected: &Value) {
    let copy = |from: PathBuf, name: &str| {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from, path).unwrap();
    };
    let repository = shop.repository_dir("main");
    for name in objects(&repository) {
        let old = name.starts_with("wal/") && name.rsplit('/').next().unwrap() < oldest_needed;
        if !old && !name.starts_with("leases/") {
            copy(repository.join(&name), &format!("repository/{name}"));
        }
    }
    copy(shop.home().join("repository.toml"), "repository.toml");
    if shop.identity_file().exists() {
        copy(shop.identity_file(), "identity.txt");
    }
    let expected = serde_json::to_string_pretty(expected).unwrap();
    fs::write(to.join("expected.json"), expected + "\n").unwrap();
}
