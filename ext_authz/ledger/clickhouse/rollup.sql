-- The sums of one day ({day:Date}, such as 2026-11-30), from scratch, in place of those before: readers see the old ones
-- or the new ones. Run it every few minutes for the present day, and for each to which late events have come.
ALTER TABLE usage_daily_next DROP PARTITION {day:Date};
INSERT INTO usage_daily_next
SELECT toDate(decided_at) AS decided_on, toStartOfDay(occurred_at, 'UTC') AS day, client, issuer,
    if(startsWith(client, 'tollgate:'), subject, '') AS subject, model, model_version, route, outcome, billed,
    count() AS calls, sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(seconds)
FROM decisions FINAL
WHERE decided_at >= toDateTime64({day:Date}, 3, 'UTC') AND decided_at < toDateTime64({day:Date} + 1, 3, 'UTC')
GROUP BY ALL
SETTINGS do_not_merge_across_partitions_select_final = 1;
ALTER TABLE usage_daily REPLACE PARTITION {day:Date} FROM usage_daily_next;
