-- The disaster, and business that goes on for a while before anybody notices.
DROP TABLE orders CASCADE;
UPDATE accounts SET balance = 0 WHERE id <= 1000;
SELECT pg_switch_wal();
INSERT INTO events (order_id, kind, at) SELECT n, 'lost', clock_timestamp() FROM generate_series(1, 1000) AS n;
