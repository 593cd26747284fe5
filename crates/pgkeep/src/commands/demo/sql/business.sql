-- What happened after the last backup: it is in the WAL and nowhere else. Each round ends with a segment of its own.
DO $$ BEGIN
  FOR n IN 1..50 LOOP
    UPDATE accounts SET balance = balance - 1 WHERE id = n * 3;
    UPDATE accounts SET balance = balance + 1 WHERE id = n * 5;
    INSERT INTO orders (account_id, placed_at, total, document)
      VALUES (n, clock_timestamp(), 1.00, jsonb_build_object('items', 1, 'express', true));
    COMMIT;
  END LOOP;
END $$;
SELECT pg_switch_wal();
UPDATE orders SET document = document || '{"checked": true}' WHERE id % 20 = 0;
SELECT pg_switch_wal();
DO $$ BEGIN
  FOR n IN 51..100 LOOP
    DELETE FROM events WHERE id = n * 7;
    INSERT INTO events (order_id, kind, at) VALUES (n, 'returned', clock_timestamp());
    COMMIT;
  END LOOP;
END $$;
SELECT pg_switch_wal();
