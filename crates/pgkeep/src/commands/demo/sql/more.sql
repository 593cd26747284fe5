-- Another day: new orders, changed balances, removed events, scattered over all tables.
SELECT setseed(0.5);
INSERT INTO orders (account_id, placed_at, total, document)
  SELECT 1 + (n * 104729) % 40000, timestamptz '2026-01-01 00:00:00Z' + n * interval '3 seconds',
    round((random() * 500)::numeric, 2), jsonb_build_object('items', 1 + n % 4, 'note', md5('more' || n))
  FROM generate_series(1, 15000) AS n;
INSERT INTO events (order_id, kind, at)
  SELECT 120000 + n, 'placed', timestamptz '2026-01-01 00:00:00Z' + n * interval '3 seconds'
  FROM generate_series(1, 15000) AS n;
UPDATE accounts SET balance = balance + 10 WHERE id % 50 = 0;
DELETE FROM events WHERE id % 1000 = 0;
