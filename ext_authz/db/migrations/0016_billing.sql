-- Bills: what usage costs, who pays for which clients, and final invoices that nobody can edit.

-- What became of each decision, and what of it is billed. Only calls that a model answered well are.
CREATE VIEW billable AS
SELECT event.decision_id, event.occurred_at, event.issuer, event.subject, event.client, event.model, event.model_version,
    event.route, became.outcome, became.outcome = 'served' AS billed,
    (became.outcome = 'served')::int AS requests, (became.outcome = 'served')::int::bigint AS units,
    coalesce(call.bytes_in, 0) AS bytes_in, coalesce(call.bytes_out, 0) AS bytes_out,
    coalesce(round((call.duration_ms / 1000)::numeric, 6), 0) AS seconds
FROM usage_events AS event
LEFT JOIN call_outcomes AS call USING (decision_id)
CROSS JOIN LATERAL (SELECT CASE
    WHEN event.reason = 'over_limit' THEN 'rate_limited'
    WHEN event.reason <> 'allowed' THEN 'denied'
    WHEN call.decision_id IS NULL THEN 'unsettled'
    WHEN call.status = 0 THEN 'client_gone'
    WHEN call.status = 504 OR call.grpc_status = 4 THEN 'timeout'
    WHEN call.status >= 500 OR call.grpc_status IN (2, 12, 13, 14, 15) THEN 'server_error'
    WHEN call.status >= 400 OR call.grpc_status <> 0 THEN 'client_error'
    ELSE 'served' END AS outcome) AS became;

CREATE TABLE price_lists (
    name         text NOT NULL,
    valid_from   date NOT NULL,
    digest       text NOT NULL,
    document     text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    published_by text NOT NULL,
    PRIMARY KEY (name, valid_from)
);

COMMENT ON COLUMN price_lists.document IS 'JSON; its SHA-256 is the digest';

CREATE TABLE billing_accounts (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,31}$'),
    title      text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    anchor     date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON COLUMN billing_accounts.anchor IS 'the first day of the first period, in UTC; the others begin on the same day of each month';

-- From which day on a client belongs to which account, until its next row: no two can overlap.
CREATE TABLE billing_clients (
    issuer  text NOT NULL,
    client  text NOT NULL,
    since   date NOT NULL,
    account text REFERENCES billing_accounts (name),
    PRIMARY KEY (issuer, client, since)
);

COMMENT ON COLUMN billing_clients.issuer IS 'iss of its tokens';
COMMENT ON COLUMN billing_clients.client IS 'as the ledger has it; of API tokens their owner, the subject';
COMMENT ON COLUMN billing_clients.account IS 'null: to none';

CREATE INDEX billing_clients_account ON billing_clients (account);

CREATE TABLE billing_subscriptions (
    account text NOT NULL REFERENCES billing_accounts (name),
    since   date NOT NULL,
    plan    text NOT NULL,
    prices  text NOT NULL,
    PRIMARY KEY (account, since)
);

COMMENT ON COLUMN billing_subscriptions.since IS 'for periods that begin on this day or later, until the next row';
COMMENT ON COLUMN billing_subscriptions.prices IS 'name of a price list';

-- Who may read the bills of an account, besides administrators.
CREATE TABLE billing_readers (
    account text NOT NULL REFERENCES billing_accounts (name),
    issuer  text NOT NULL,
    subject text NOT NULL,
    PRIMARY KEY (account, issuer, subject)
);

COMMENT ON COLUMN billing_readers.issuer IS 'its name in the policy';

CREATE INDEX billing_readers_subject ON billing_readers (issuer, subject);

-- Final invoices. Each row holds the hash of the one before: what is changed or taken out later shows.
CREATE TABLE invoices (
    number       bigint PRIMARY KEY,
    account      text NOT NULL REFERENCES billing_accounts (name),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL CHECK (period_end > period_start),
    finalized_at timestamptz NOT NULL,
    finalized_by text NOT NULL,
    role         text NOT NULL,
    document     text NOT NULL,
    previous     bytea NOT NULL,
    hash         bytea NOT NULL,
    UNIQUE (account, period_start)
);

COMMENT ON COLUMN invoices.role IS 'who was logged in to Postgres, whatever anybody says';
COMMENT ON COLUMN invoices.document IS 'JSON: lines, prices, and the usage that they were computed from';

CREATE FUNCTION invoice_hash(invoice invoices) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(invoice.previous || convert_to(jsonb_build_array(
        invoice.number, invoice.account, extract(epoch FROM invoice.period_start)::text,
        extract(epoch FROM invoice.period_end)::text, extract(epoch FROM invoice.finalized_at)::text,
        invoice.finalized_by, invoice.role, invoice.document)::text, 'UTF8'))
$$;

-- Numbers come from the last row, not from a sequence: what is rolled back leaves no gap. Whoever finalizes holds the same
-- lock from the beginning of the transaction (billing/invoices.py).
CREATE FUNCTION invoices_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last invoices;
BEGIN
    PERFORM pg_advisory_xact_lock(7263517096);
    SELECT * INTO last FROM invoices ORDER BY number DESC LIMIT 1;
    NEW.number := coalesce(last.number, 0) + 1;
    NEW.previous := coalesce(last.hash, '\x');
    NEW.finalized_at := clock_timestamp();
    NEW.role := session_user;
    NEW.hash := invoice_hash(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER chain BEFORE INSERT ON invoices FOR EACH ROW EXECUTE FUNCTION invoices_chain();

CREATE FUNCTION billing_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only added to', TG_TABLE_NAME;
END $$;
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION billing_keep();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON invoices FOR EACH STATEMENT EXECUTE FUNCTION billing_keep();
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON price_lists FOR EACH ROW EXECUTE FUNCTION billing_keep();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON price_lists FOR EACH STATEMENT EXECUTE FUNCTION billing_keep();

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION invoices_chain() SET search_path = %I, pg_temp', current_schema());
END $$;
