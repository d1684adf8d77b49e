-- What leaves this database: the decisions whose present state is to be sent to a broker (ledger/outbox.py).
-- One row while decisions are published; without it the outbox stays empty.
CREATE TABLE usage_publishing (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL DEFAULT now()
);

-- In the transaction of the change, until the broker has acknowledged what it sent. A change has a row of its own, so
-- that one that comes while the state before it is sent stays here.
CREATE TABLE usage_outbox (
    settled     boolean NOT NULL,
    decision_id uuid NOT NULL,
    change      text NOT NULL,
    PRIMARY KEY (settled, decision_id, change)
);
ALTER TABLE usage_outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);

COMMENT ON COLUMN usage_publishing.since IS 'changes of transactions that began before were not collected';
COMMENT ON COLUMN usage_outbox.settled IS 'false: allowed, and what became of it may come yet; it waits for that';
COMMENT ON COLUMN usage_outbox.change IS 'event: it is new; outcome: so is what became of it; corrected: reason or time; again: asked for by an operator';

-- The same state of a decision has the same number, each later one a greater number: an event that is sent twice is the
-- same event, and the greatest number is what counts.
CREATE FUNCTION usage_revision(reason text, degraded text, has_outcome boolean)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT 1 + has_outcome::integer + CASE WHEN reason IN ('unavailable', 'internal') OR degraded = 'redis' THEN 2 ELSE 0 END
$$;

-- Whether rows of decisions from before this time may be deleted. An id begins with the time of its decision; the hour
-- is for clocks that differ.
CREATE FUNCTION usage_is_published(before timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
SELECT NOT EXISTS (SELECT FROM usage_publishing) OR NOT EXISTS (
    SELECT FROM usage_outbox WHERE settled IN (false, true) AND decision_id < (
        lpad(to_hex((extract(epoch FROM before + interval '1 hour') * 1000)::bigint), 12, '0') || repeat('0', 20)
    )::uuid
)
$$;

CREATE OR REPLACE FUNCTION usage_events_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes (decision_id, change) SELECT decision_id, 'event' FROM inserted ON CONFLICT DO NOTHING;
    IF EXISTS (SELECT FROM usage_publishing) THEN
        INSERT INTO usage_outbox
        SELECT usage_outcome(reason, path, NULL, NULL, '', NULL) <> 'unsettled', decision_id, 'event' FROM inserted
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION call_outcomes_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes (decision_id, change) SELECT decision_id, 'outcome' FROM inserted ON CONFLICT DO NOTHING;
    IF EXISTS (SELECT FROM usage_publishing) THEN
        INSERT INTO usage_outbox SELECT true, decision_id, 'outcome' FROM inserted ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION usage_events_corrected() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes VALUES (OLD.decision_id, 'corrected', OLD.occurred_at, OLD.reason) ON CONFLICT DO NOTHING;
    IF EXISTS (SELECT FROM usage_publishing) THEN
        INSERT INTO usage_outbox VALUES (true, OLD.decision_id, 'corrected') ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_events_changed', 'call_outcomes_changed', 'usage_events_corrected'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
