-- Every row of every table as text, in the order of its key; digests that PostgreSQL makes; and how all is built.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL TimeZone = 'UTC';
\set file :into '/accounts'
COPY (SELECT * FROM accounts ORDER BY id) TO :'file';
\set file :into '/orders'
COPY (SELECT * FROM orders ORDER BY id) TO :'file';
\set file :into '/events'
COPY (SELECT * FROM events ORDER BY id) TO :'file';
\set file :into '/attachments'
COPY (SELECT * FROM attachments ORDER BY id) TO :'file';

\set file :into '/digests'
COPY (
  SELECT 'accounts', count(*), md5(string_agg(t::text, E'\n' ORDER BY id)) FROM accounts AS t UNION ALL
  SELECT 'orders', count(*), md5(string_agg(t::text, E'\n' ORDER BY id)) FROM orders AS t UNION ALL
  SELECT 'events', count(*), md5(string_agg(t::text, E'\n' ORDER BY id)) FROM events AS t UNION ALL
  SELECT 'attachments', count(*), md5(string_agg(md5(content), E'\n' ORDER BY id)) FROM attachments
) TO :'file';

\set file :into '/structure'
COPY (
  SELECT 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull::text
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped UNION ALL
  SELECT 'constraint', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid), convalidated::text
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace UNION ALL
  SELECT 'index', indrelid::regclass, pg_class.relname, pg_get_indexdef(indexrelid), indisvalid::text
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = 'public'::regnamespace UNION ALL
  SELECT 'tablespace', pg_class.oid::regclass, pg_class.relname, spcname, relkind::text
    FROM pg_class JOIN pg_tablespace ON pg_tablespace.oid = reltablespace
    WHERE relnamespace = 'public'::regnamespace
  ORDER BY 1, 2, 3
) TO :'file';
COMMIT;
