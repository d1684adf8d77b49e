-- What a bill counts: each decision with what became of it, under one of the names of ledger/billable.py.
ALTER TABLE call_outcomes
    ADD COLUMN attempts smallint NOT NULL DEFAULT 0,
    ADD COLUMN upstream_ms double precision,
    ADD COLUMN units bigint;

COMMENT ON COLUMN call_outcomes.attempts IS 'how often Envoy tried an upstream for it; 0: never, or written before there was this column';
COMMENT ON COLUMN call_outcomes.upstream_ms IS 'from the first byte that an upstream was sent to the last one that came from it; null: it was sent nothing';
COMMENT ON COLUMN call_outcomes.units IS 'as the model says (x-usage-units); null: it does not';

-- As of usage_events: rows arrive in the order of time.
CREATE INDEX call_outcomes_period ON call_outcomes USING brin (received_at);

-- `status` is null where no access log came. The order matters: a status of gRPC says more than one of HTTP.
CREATE FUNCTION usage_outcome(
    reason text, path text, status smallint, grpc_status smallint, flags text, upstream_ms double precision
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE
    WHEN reason = 'over_limit' THEN 'rate_limited'
    WHEN reason IN ('unavailable', 'internal') THEN 'unavailable'
    WHEN reason <> 'allowed' THEN 'denied'
    WHEN status IS NULL THEN CASE WHEN path = '/v2/repository/index' THEN 'answered' ELSE 'unsettled' END
    WHEN grpc_status = 0 THEN 'served'
    WHEN grpc_status = 4 THEN 'timeout'
    WHEN grpc_status IN (3, 5, 6, 7, 9, 11, 12, 16) THEN 'client_error'
    WHEN status = 0 OR grpc_status = 1
        OR (status < 400 AND flags <> '' AND flags ~ '\mdownstream_(connection_termination|remote_reset)\M')
        THEN CASE WHEN upstream_ms IS NULL THEN 'unreached' ELSE 'client_gone' END
    WHEN grpc_status IS NOT NULL OR status >= 500 THEN CASE
        WHEN grpc_status IS NULL AND status = 504 THEN 'timeout'
        WHEN upstream_ms IS NULL THEN 'unreached'
        ELSE 'server_error' END
    WHEN status >= 400 THEN 'client_error'
    WHEN flags <> '' AND flags ~ '\mupstream_(remote_reset|connection_termination|protocol_error)\M' THEN 'server_error'
    ELSE 'served' END
$$;

CREATE OR REPLACE VIEW billable AS
SELECT decision_id, occurred_at, issuer, subject, client, model, model_version, route, outcome, billed,
    billed::integer AS requests,
    CASE WHEN billed THEN coalesce(units, 1) ELSE 0 END AS units,
    coalesce(bytes_in, 0) AS bytes_in,
    coalesce(bytes_out, 0) AS bytes_out,
    -- Until there was the column, all of a call was taken for the time of its upstream.
    round((coalesce(upstream_ms, CASE WHEN outcome = 'served' THEN duration_ms ELSE 0 END) / 1000)::numeric, 6) AS seconds
FROM usage_events LEFT JOIN call_outcomes USING (decision_id)
CROSS JOIN LATERAL (SELECT usage_outcome(reason, path, status, grpc_status, flags, upstream_ms) AS outcome) AS named
CROSS JOIN LATERAL (SELECT outcome IN ('served', 'client_gone') AS billed) AS priced;

COMMENT ON VIEW billable IS 'one row per decision; bytes and seconds of calls that are not billed are their cost to us';
