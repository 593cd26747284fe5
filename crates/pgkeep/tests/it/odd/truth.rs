//! What a cluster holds, table by table over all its databases, as PostgreSQL alone says it.
//!
//! Invariant: two clusters have the same [`Truth`] only if every row of every table of theirs is the same, and so are
//! the names of databases, tablespaces, tables and indexes. Unlogged tables count as empty: so they are after a restore.

use std::collections::BTreeMap;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, StopMode};

/// Contents by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truth(BTreeMap<String, String>);

impl Truth {
    /// Of a cluster that nobody writes to.
    #[track_caller]
    pub fn of(cluster: &Cluster) -> Truth {
        Truth::read(cluster, "0")
    }

    /// Of a restored copy.
    #[track_caller]
    fn of_copy(copy: &Cluster) -> Truth {
        Truth::read(copy, "count(*)")
    }

    #[track_caller]
    fn read(cluster: &Cluster, unlogged: &str) -> Truth {
        let mut found = BTreeMap::new();
        // A name may have a line break in it.
        let databases = cluster
            .sql("SELECT string_agg(datname, chr(1)) FROM pg_database WHERE datallowconn AND datname <> 'template1'");
        found.insert(
            "databases".to_owned(),
            cluster.sql("SELECT datname FROM pg_database ORDER BY 1"),
        );
        found.insert(
            "tablespaces".to_owned(),
            cluster.sql("SELECT spcname FROM pg_tablespace ORDER BY 1"),
        );
        for database in databases.split('\u{1}') {
            for line in cluster.sql_in(database, &contents(unlogged)).lines() {
                let (name, content) = line.split_once('|').expect("two columns");
                found.insert(format!("{database}: {name}"), content.to_owned());
            }
        }
        Truth(found)
    }

    /// Panics with what differs, if anything does.
    #[track_caller]
    pub fn expect(&self, copy: &Truth) {
        let names = self.0.keys().chain(copy.0.keys());
        let differing: BTreeMap<_, _> = names
            .map(|name| (name, (self.0.get(name), copy.0.get(name))))
            .filter(|(_, (here, there))| here != there)
            .collect();
        assert!(differing.is_empty(), "(in the source, in the copy): {differing:#?}");
    }

    /// Starts a restored copy, and lets PostgreSQL compare it row by row, structure by structure, page by page.
    #[track_caller]
    pub fn prove(&self, mut copy: Cluster) -> Cluster {
        copy.start();
        copy.wait_recovered();
        self.expect(&Truth::of_copy(&copy));
        copy.check_structure();
        copy.stop(StopMode::Fast);
        if copy.control("Data page checksum version") != "0" {
            copy.check_pages();
        }
        copy
    }
}

/// Statements that give a line for each table, and one for all indexes.
fn contents(unlogged: &str) -> String {
    format!(
        "SELECT format('SELECT %L, %s FROM ONLY %s t', name, what, name) FROM (
             SELECT c.oid::regclass::text AS name, CASE relpersistence WHEN 'u' THEN '{unlogged}'
                 ELSE 'count(*) || '' '' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)' END AS what
             FROM pg_class c WHERE relkind IN ('r', 'm') AND relpersistence <> 't'
             AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)) tables
         ORDER BY name \\gexec
         SELECT 'indexes', coalesce(string_agg(indexrelid::regclass || ' ' || indisvalid, ' ' ORDER BY indexrelid::regclass::text), '-')
         FROM pg_index WHERE indexrelid >= 16384 AND indrelid::regclass::text !~ '^pg_toast'"
    )
}

/// Restores a backup alone, to its own end.
#[track_caller]
pub fn restored(shop: &Shop, name: &str, id: &str, more: &[&str]) -> Cluster {
    let options = ["--backup", id, "--immediate", "--action", "promote"];
    shop.restore(name, [&options, more].concat())
}

/// The options that put every tablespace of the source beside a copy.
pub fn beside(shop: &Shop, name: &str) -> Vec<String> {
    let locations = shop.cluster.sql(
        "SELECT DISTINCT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'",
    );
    let moved = |(number, location): (usize, &str)| {
        let place = shop.target(&format!("{name}.{number}"));
        ["--tablespace".to_owned(), format!("{location}={}", place.display())]
    };
    locations.lines().enumerate().flat_map(moved).collect()
}
