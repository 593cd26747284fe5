//! Page checksums as the server computes them.

use std::fs;
use std::os::unix::fs::FileExt;

use pgkeep_pg::datadir::{Class, DataDir, Entry, Fork, Found, RelSegment};
use pgkeep_pg::page::{PageState, bad_pages, has_sane_header, page_lsn, verify_page};
use pgkeep_testkit::{Cluster, StopMode, every_major};

use super::quiet;

const EVERY_ACCESS_METHOD: &str = "
create table t (id int, v text, p point, a int[]);
insert into t select g, md5(g::text), point(g, g % 77), array[g % 10, g % 100] from generate_series(1, 20000) g;
create index on t using btree (id);
create index on t using hash (v);
create index on t using gist (p);
create index on t using spgist (p);
create index on t using gin (a);
create index on t using brin (id);
create sequence s;
create table big as select g, (select string_agg(md5((g * i)::text), '') from generate_series(1, 200) i) v
  from generate_series(1, 200) g;
delete from t where id % 5 = 0;
vacuum;
";

every_major! {
    /// A page of every kind passes; one changed bit does not; nor does a page at the next block.
    fn pages_that_a_server_wrote_pass_and_damaged_ones_do_not(major: u16) {
        let mut cluster = quiet(major).start();
        cluster.sql(EVERY_ACCESS_METHOD);
        let flushed = cluster.value("checkpoint; select pg_current_wal_flush_lsn()");
        cluster.stop(StopMode::Fast);
        let mut forks = Vec::new();
        let mut pages = 0;
        for (entry, relation) in relations(&cluster) {
            let bytes = fs::read(cluster.data_dir().join(entry.path.as_path())).unwrap();
            assert_eq!(bytes.len() % 8192, 0);
            assert_eq!(
                bad_pages(&bytes, 8192, relation.first_block(131_072)).count(),
                0,
                "{}",
                entry.path
            );
            forks.push(relation.fork);
            pages += bytes.len() / 8192;
            for page in bytes.chunks_exact(8192) {
                assert!(has_sane_header(page), "{}", entry.path);
                assert!(page_lsn(page) <= flushed);
            }
            let Some(first) = bytes.chunks_exact(8192).next() else {
                continue;
            };
            if verify_page(first, 0) == PageState::Good {
                assert!(matches!(verify_page(first, 1), PageState::Bad { .. }), "{}", entry.path);
                let mut damaged = first.to_vec();
                damaged[4711] ^= 4;
                assert!(
                    matches!(verify_page(&damaged, 0), PageState::Bad { .. }),
                    "{}",
                    entry.path
                );
            }
        }
        assert!(pages > 2000, "{pages} pages");
        for fork in [Fork::Main, Fork::Fsm, Fork::Vm] {
            assert!(forks.contains(&fork), "{fork:?}");
        }
        // PostgreSQL agrees.
        cluster.check_pages();
    }
}

/// Aim: blocks are counted over all segments of a relation (C9). Method: a table of more than 1 GiB, both ends of majors.
#[test]
fn the_second_gigabyte_of_a_table_passes_with_its_own_block_numbers() {
    for major in [14, 18] {
        let minimal = "wal_level = minimal\nmax_wal_senders = 0\nshared_buffers = '64MB'";
        let mut cluster = quiet(major).conf(minimal).start();
        // One row a page, and no WAL for a table made in the same transaction.
        cluster.sql(
            "begin;\ncreate table wide (v text) with (fillfactor = 10);\nalter table wide alter v set storage plain;\n\
             insert into wide select repeat('x', 1000) from generate_series(1, 132000);\ncommit;\ncheckpoint;\n",
        );
        cluster.stop(StopMode::Fast);
        let second = relations(&cluster)
            .find(|(_, relation)| relation.segment == 1)
            .expect("a second segment");
        let file = fs::File::open(cluster.data_dir().join(second.0.path.as_path())).unwrap();
        assert!(second.0.bytes() >= 8192 * 100);
        let mut run = vec![0; 8192 * 100];
        file.read_exact_at(&mut run, 0).unwrap();
        assert_eq!(bad_pages(&run, 8192, second.1.first_block(131_072)).count(), 0);
        assert_eq!(bad_pages(&run, 8192, 0).count(), 100, "as if it were the first segment");
    }
}

fn relations(cluster: &Cluster) -> impl Iterator<Item = (Entry, RelSegment)> {
    let walk = DataDir::open(cluster.data_dir()).unwrap().walk().unwrap();
    walk.filter_map(|found| match found.unwrap() {
        Found::Entry(entry) => match entry.class {
            Class::Relation(relation) => Some((entry, relation)),
            _ => None,
        },
        Found::Skipped { .. } => None,
    })
}
