-- Decisions of `tollgate ledger publish` in ClickHouse 24.5 or newer, and their sums by day. docs/publishing.md.

-- One row per decision, in its latest state: rows of one key are merged, and the greatest revision stays. Time and key
-- are those of the id, which every revision of a decision has; `occurred_at` may change with one.
CREATE TABLE decisions (
    decision_id   UUID,
    revision      UInt8,
    occurred_at   DateTime64(6, 'UTC'),
    issuer        LowCardinality(String),
    subject       String,
    client        LowCardinality(String),
    route         LowCardinality(String),
    model         LowCardinality(String),
    model_version LowCardinality(String),
    reason        LowCardinality(String),
    code          LowCardinality(String),
    degraded      LowCardinality(String),
    policy        LowCardinality(String),
    outcome       LowCardinality(String),
    billed        Bool,
    requests      UInt8,
    units         UInt64,
    bytes_in      UInt64,
    bytes_out     UInt64,
    seconds       Decimal(18, 6),
    decided_at    DateTime64(3, 'UTC') MATERIALIZED UUIDv7ToDateTime(decision_id, 'UTC')
) ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(decided_at)
ORDER BY (toStartOfHour(decided_at), client, decision_id);

-- Sums of exactly the columns of `usage_daily` in Postgres. `decided_on` is the day of the ids: a decision of the last
-- second of a day may be taken on the next one. So add up over it: GROUP BY day, client, ...
CREATE TABLE usage_daily (
    decided_on    Date,
    day           DateTime('UTC'),
    client        LowCardinality(String),
    issuer        LowCardinality(String),
    subject       String,
    model         LowCardinality(String),
    model_version LowCardinality(String),
    route         LowCardinality(String),
    outcome       LowCardinality(String),
    billed        Bool,
    calls         UInt64,
    requests      UInt64,
    units         UInt64,
    bytes_in      UInt64,
    bytes_out     UInt64,
    seconds       Decimal(38, 6)
) ENGINE = MergeTree PARTITION BY decided_on ORDER BY (client, day, model, route, outcome);

CREATE TABLE usage_daily_next AS usage_daily;
