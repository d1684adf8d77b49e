-- What administrators give besides a limit, for a while. The counter itself is in Redis.
CREATE TABLE quota_boosts (
    id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    counter  text NOT NULL CHECK (length(counter) <= 8192),
    amount   bigint NOT NULL CHECK (amount BETWEEN 1 AND 999999999),
    until    timestamptz NOT NULL,
    reason   text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    made_at  timestamptz NOT NULL DEFAULT now(),
    made_by  text NOT NULL,
    ended_at timestamptz
);

COMMENT ON COLUMN quota_boosts.counter IS 'the limit and the values that it counts by, with U+001F between them';
COMMENT ON COLUMN quota_boosts.ended_at IS 'when it was taken back, or seen to be in force no more';

CREATE INDEX quota_boosts_due ON quota_boosts (until) WHERE ended_at IS NULL;
