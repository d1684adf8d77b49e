-- The ledger: one row per answered decision, moved here from the Redis streams by usage/worker.py.
CREATE TABLE usage_events (
    decision_id   uuid PRIMARY KEY,
    occurred_at   timestamptz NOT NULL,
    issuer        text NOT NULL,
    subject       text NOT NULL,
    client        text NOT NULL,
    token_id      text NOT NULL,
    route         text NOT NULL,
    model         text NOT NULL,
    model_version text NOT NULL,
    method        text NOT NULL,
    path          text NOT NULL,
    reason        text NOT NULL,
    code          text NOT NULL,
    policy        text NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX usage_events_client ON usage_events (client, occurred_at);
-- Rows arrive nearly in the order of time: a period is found by blocks, at next to no cost per insert.
CREATE INDEX usage_events_period ON usage_events USING brin (occurred_at);

COMMENT ON COLUMN usage_events.occurred_at IS 'when Redis took the event (the time in its stream id)';

-- What could not become a row above: broken events, and a second, different event under a known decision id.
CREATE TABLE usage_rejects (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream      text NOT NULL,
    entry_id    text NOT NULL,
    raw         bytea NOT NULL,
    digest      bytea GENERATED ALWAYS AS (sha256(raw)) STORED,
    reason      text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream, entry_id, digest)
);

COMMENT ON COLUMN usage_rejects.raw IS 'the fields of the stream entry as they were, in MessagePack';
