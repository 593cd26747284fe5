-- Every B-tree against its table, entry by entry, and every page of every table.
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT count(bt_index_check(index => indexrelid, heapallindexed => true)::text)
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
  WHERE relnamespace = 'public'::regnamespace AND amname = 'btree';
SELECT count(bad.msg) FROM pg_class, LATERAL verify_heapam(pg_class.oid::regclass) AS bad
  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r';
