-- What became of a call after it was allowed, from Envoy's access log (ledger/outcome.py). A row may come before that of
-- its decision, and may be missing: access logs are best effort. No foreign key, therefore.
CREATE TABLE call_outcomes (
    decision_id  uuid PRIMARY KEY,
    status       smallint NOT NULL,
    grpc_status  smallint,
    flags        text NOT NULL,
    details      text NOT NULL,
    duration_ms  double precision NOT NULL,
    bytes_in     bigint NOT NULL,
    bytes_out    bigint NOT NULL,
    upstream     text NOT NULL,
    upstream_address text NOT NULL,
    answered     text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN grpc_status IS NOT NULL THEN 'grpc ' || grpc_status::text
             WHEN status = 0 THEN 'none'
             ELSE status::text END
    ) STORED,
    received_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON COLUMN call_outcomes.status IS 'of HTTP; 0: the caller was gone before there was an answer';
COMMENT ON COLUMN call_outcomes.flags IS 'Envoy''s response flags, such as upstream_request_timeout';
COMMENT ON COLUMN call_outcomes.details IS 'Envoy''s response code details: via_upstream, or why it answered by itself';
COMMENT ON COLUMN call_outcomes.duration_ms IS 'from the first byte of the request to the last one of the answer';
COMMENT ON COLUMN call_outcomes.upstream IS 'Envoy''s name of the cluster that served it; empty: none did';
