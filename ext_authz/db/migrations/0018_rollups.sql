-- Usage by hour and by day: sums over the rows of `billable`, kept up to date by the usage worker (ledger/rollups.py).
LOCK TABLE usage_events, call_outcomes IN SHARE ROW EXCLUSIVE MODE;

-- What one decision counts for, in whatever state: the columns of `billable` that are computed.
CREATE FUNCTION usage_counts(
    reason text, path text, status smallint, grpc_status smallint, flags text, upstream_ms double precision,
    duration_ms double precision, units bigint, bytes_in bigint, bytes_out bigint
) RETURNS TABLE (
    outcome text, billed boolean, requests integer, units bigint, bytes_in bigint, bytes_out bigint, seconds numeric
) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT named.outcome, priced.billed, priced.billed::integer, CASE WHEN priced.billed THEN coalesce($8, 1) ELSE 0 END,
    coalesce($9, 0), coalesce($10, 0),
    -- Until there was the column, all of a call was taken for the time of its upstream.
    round((coalesce($6, CASE WHEN named.outcome = 'served' THEN $7 ELSE 0 END) / 1000)::numeric, 6)
FROM (SELECT usage_outcome($1, $2, $3, $4, $5, $6) AS outcome) AS named
CROSS JOIN LATERAL (SELECT named.outcome IN ('served', 'client_gone') AS billed) AS priced
$$;

CREATE OR REPLACE VIEW billable AS
SELECT decision_id, occurred_at, issuer, subject, client, model, model_version, route,
    counts.outcome, counts.billed, counts.requests, counts.units, counts.bytes_in, counts.bytes_out, counts.seconds
FROM usage_events AS event LEFT JOIN call_outcomes AS settled USING (decision_id)
CROSS JOIN LATERAL usage_counts(
    event.reason, event.path, settled.status, settled.grpc_status, settled.flags, settled.upstream_ms,
    settled.duration_ms, settled.units, settled.bytes_in, settled.bytes_out
) AS counts;

-- Names are as long as a token makes them: `series`, a hash of them, is what a unique index can hold of any length.
CREATE TABLE usage_hourly (
    hour          timestamptz NOT NULL,
    series        bytea NOT NULL,
    client        text NOT NULL,
    issuer        text NOT NULL,
    subject       text NOT NULL,
    model         text NOT NULL,
    model_version text NOT NULL,
    route         text NOT NULL,
    outcome       text NOT NULL,
    billed        boolean NOT NULL,
    calls         bigint NOT NULL,
    requests      bigint NOT NULL,
    units         numeric NOT NULL,
    bytes_in      numeric NOT NULL,
    bytes_out     numeric NOT NULL,
    seconds       numeric NOT NULL,
    PRIMARY KEY (hour, series)
) WITH (fillfactor = 70);  -- room on each page for the next sums, which are in no index

CREATE TABLE usage_daily (LIKE usage_hourly INCLUDING STORAGE) WITH (fillfactor = 70);
ALTER TABLE usage_daily RENAME COLUMN hour TO day;
ALTER TABLE usage_daily ADD PRIMARY KEY (day, series);

COMMENT ON COLUMN usage_hourly.subject IS 'of calls with API tokens of our own, whose names are no clients: the owner, who pays; else empty';
COMMENT ON COLUMN usage_hourly.calls IS 'decisions of this outcome; requests are those that are billed';
COMMENT ON COLUMN usage_daily.day IS 'its beginning in UTC';

-- What is not in the sums yet. In the transaction of the change, so that each change is here exactly once, until the
-- worker adds it to the sums and deletes it from here, in one transaction too.
CREATE TABLE usage_changes (
    decision_id uuid NOT NULL,
    change      text NOT NULL,
    occurred_at timestamptz,
    reason      text,
    PRIMARY KEY (decision_id, change)
);
ALTER TABLE usage_changes SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);

COMMENT ON COLUMN usage_changes.change IS 'event: it is new; outcome: so is what became of it; corrected: reason or time were those here';

CREATE FUNCTION usage_events_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes (decision_id, change) SELECT decision_id, 'event' FROM inserted ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE FUNCTION call_outcomes_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes (decision_id, change) SELECT decision_id, 'outcome' FROM inserted ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE FUNCTION usage_events_corrected() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO usage_changes VALUES (OLD.decision_id, 'corrected', OLD.occurred_at, OLD.reason) ON CONFLICT DO NOTHING;
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

CREATE TRIGGER changed AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_events_changed();
CREATE TRIGGER changed AFTER INSERT ON call_outcomes
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION call_outcomes_changed();
CREATE TRIGGER corrected AFTER UPDATE OF occurred_at, reason ON usage_events FOR EACH ROW
    WHEN (OLD.occurred_at <> NEW.occurred_at OR OLD.reason <> NEW.reason) EXECUTE FUNCTION usage_events_corrected();

CREATE FUNCTION usage_owner(client text, subject text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN starts_with($1, 'tollgate:') THEN $2 ELSE '' END
$$;

CREATE FUNCTION usage_series(
    client text, issuer text, subject text, model text, model_version text, route text, outcome text
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT sha256(convert_to(json_build_array($1, $2, $3, $4, $5, $6, $7)::text, getdatabaseencoding()))
$$;

-- What was there before: the triggers saw none of it. About two seconds for a million rows, while the usage worker waits.
INSERT INTO usage_hourly
SELECT date_trunc('hour', occurred_at, 'UTC'), usage_series(client, issuer, owner, model, model_version, route, outcome),
    client, issuer, owner, model, model_version, route, outcome, billed,
    count(*), sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(seconds)
FROM billable CROSS JOIN LATERAL (SELECT usage_owner(client, subject) AS owner) AS owned
GROUP BY 1, client, issuer, owner, model, model_version, route, outcome, billed;

INSERT INTO usage_daily
SELECT date_trunc('day', hour, 'UTC'), series, client, issuer, subject, model, model_version, route, outcome, billed,
    sum(calls), sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(seconds)
FROM usage_hourly GROUP BY 1, series, client, issuer, subject, model, model_version, route, outcome, billed;
