-- The ledger by months: what is older than it is kept for is dropped month by month, not deleted row by row. An id begins
-- with the time of its decision, so the month follows from the id, and the primary key stays what it was. What is there
-- becomes the first part as it is: it is read once, about a second per million rows, while the usage worker waits.
LOCK TABLE usage_events, call_outcomes IN ACCESS EXCLUSIVE MODE;

-- The first id of this millisecond.
CREATE FUNCTION usage_first_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (lpad(to_hex(floor(extract(epoch FROM $1) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE FUNCTION usage_minted_at(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT to_timestamp(('x' || left(replace($1::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

-- What others may do with `source`, with `target` too; of that, one privilege alone if it is named.
CREATE FUNCTION usage_grants_as(source regclass, target regclass, privilege text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN
        SELECT format('GRANT %s ON %s TO %s%s', privilege_type || coalesce(' (' || quote_ident(col) || ')', ''), target,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM (
            SELECT NULL AS col, granted.*, relowner FROM pg_class CROSS JOIN aclexplode(relacl) AS granted WHERE oid = source
            UNION ALL
            SELECT attname, granted.*, NULL FROM pg_attribute CROSS JOIN aclexplode(attacl) AS granted
            WHERE attrelid = source AND NOT attisdropped
        ) AS one WHERE grantee IS DISTINCT FROM relowner AND (privilege_type = privilege OR privilege IS NULL)
    LOOP
        EXECUTE line;
    END LOOP;
END $$;

-- What is there, under another name; the names of its indexes are taken by those of the whole.
DO $$
DECLARE
    ledger text;
    name text;
BEGIN
    FOREACH ledger IN ARRAY ARRAY['usage_events', 'call_outcomes'] LOOP
        FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = ledger::regclass AND tgname IN ('see', 'changed', 'corrected') LOOP
            EXECUTE format('DROP TRIGGER %I ON %I', name, ledger);
        END LOOP;
        FOR name IN SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = ledger::regclass LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', name, replace(name, ledger, ledger || '_before'));
        END LOOP;
        EXECUTE format('ALTER TABLE %I RENAME TO %I', ledger, ledger || '_before');
        EXECUTE format(
            'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING COMMENTS, PRIMARY KEY (decision_id)) '
            'PARTITION BY RANGE (decision_id)', ledger, ledger || '_before');
        PERFORM usage_grants_as((ledger || '_before')::regclass, ledger::regclass, NULL);
        -- For ids of times for which there is no month.
        EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', ledger || '_other', ledger);
    END LOOP;
END $$;

CREATE INDEX usage_events_client ON usage_events (client, occurred_at);
CREATE INDEX usage_events_period ON usage_events USING brin (occurred_at);
CREATE INDEX usage_events_subject ON usage_events (subject, decision_id) WHERE subject <> '';
CREATE INDEX usage_events_username ON usage_events (lower(username), decision_id) WHERE username <> '';
CREATE INDEX call_outcomes_period ON call_outcomes USING brin (received_at);

-- From one part to another: ids from `first` on, up to `beyond`. Neither part has triggers.
CREATE FUNCTION usage_move(source text, target text, first uuid, beyond uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    names text;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ') INTO names FROM pg_attribute
    WHERE attrelid = source::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE decision_id >= $1 AND ($2 IS NULL OR decision_id < $2) RETURNING %s) '
        'INSERT INTO %I (%s) SELECT %s FROM moved', source, names, target, names, names) USING first, beyond;
END $$;

DO $$
DECLARE
    ledger text;
    next_month uuid := usage_first_id((date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC');
BEGIN
    FOREACH ledger IN ARRAY ARRAY['usage_events', 'call_outcomes'] LOOP
        PERFORM usage_move(ledger || '_before', ledger || '_other', next_month, NULL);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', ledger, ledger || '_before', next_month);
    END LOOP;
END $$;

-- As they were.
CREATE TRIGGER see AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_events_see();
CREATE TRIGGER changed AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_events_changed();
CREATE TRIGGER changed AFTER INSERT ON call_outcomes
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION call_outcomes_changed();
CREATE TRIGGER corrected AFTER UPDATE OF occurred_at, reason ON usage_events FOR EACH ROW
    WHEN (OLD.occurred_at <> NEW.occurred_at OR OLD.reason <> NEW.reason) EXECUTE FUNCTION usage_events_corrected();

CREATE OR REPLACE VIEW billable AS
SELECT decision_id, occurred_at, issuer, subject, client, model, model_version, route,
    counts.outcome, counts.billed, counts.requests, counts.units, counts.bytes_in, counts.bytes_out, counts.seconds
FROM usage_events AS event LEFT JOIN call_outcomes AS settled USING (decision_id)
CROSS JOIN LATERAL usage_counts(
    event.reason, event.path, settled.status, settled.grpc_status, settled.flags, settled.upstream_ms,
    settled.duration_ms, settled.units, settled.bytes_in, settled.bytes_out
) AS counts;

-- The parts, by their bounds.
CREATE VIEW usage_months AS
SELECT ledger, name, usage_minted_at(substring(bound FROM $$FROM \('([0-9a-f-]{36})'\)$$)::uuid) AS since,
    usage_minted_at(substring(bound FROM $$TO \('([0-9a-f-]{36})'\)$$)::uuid) AS until
FROM (
    SELECT whole.relname::text AS ledger, part.relname::text AS name, pg_get_expr(part.relpartbound, part.oid) AS bound
    FROM pg_inherits JOIN pg_class AS whole ON whole.oid = inhparent JOIN pg_class AS part ON part.oid = inhrelid
    WHERE inhparent IN ('usage_events'::regclass, 'call_outcomes'::regclass)
) AS parts;

COMMENT ON VIEW usage_months IS 'by the time in the decision id; since null: from the beginning; both null: all that fits nowhere else';

-- The month after the last one. Whoever waits for the parts that are locked here waits two seconds at most.
CREATE FUNCTION usage_month_add(ledger text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month timestamptz := (SELECT max(until) FROM usage_months WHERE usage_months.ledger = $1);
    next_month timestamptz := ((month AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    name text := ledger || to_char(month AT TIME ZONE 'UTC', '_YYYY_MM');
BEGIN
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', ledger || '_other');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING GENERATED)', name, ledger);
    PERFORM usage_move(ledger || '_other', name, usage_first_id(month), usage_first_id(next_month));
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', ledger, name,
        usage_first_id(month), usage_first_id(next_month));
END $$;

-- As the owner of the tables, for whoever may write events: months up to the third from now. How many were made.
CREATE FUNCTION usage_months_ahead() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $$
DECLARE
    target timestamptz := (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '4 months') AT TIME ZONE 'UTC';
    whole text;
    made integer := 0;
BEGIN
    IF NOT has_table_privilege(session_user, 'usage_events', 'INSERT') THEN
        RAISE insufficient_privilege USING MESSAGE = 'months are made for who may insert into usage_events';
    END IF;
    PERFORM pg_advisory_xact_lock(7263517098);
    FOREACH whole IN ARRAY ARRAY['usage_events', 'call_outcomes'] LOOP
        WHILE (SELECT max(until) FROM usage_months WHERE ledger = whole) < target LOOP
            PERFORM usage_month_add(whole);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- What keeps the events of before `until`, which is when their month ended; empty: nothing. An event may come a week after
-- its decision, into the next period.
CREATE FUNCTION usage_kept_by(until timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
SELECT coalesce(
    (SELECT 'changes that are not in the sums yet' FROM usage_changes WHERE decision_id < usage_first_id($1) LIMIT 1),
    (SELECT 'decisions that are not published yet' WHERE NOT usage_is_published($1)),
    (SELECT 'account ' || name || ', whose bills are final up to ' || coalesce(
        to_char((SELECT max(period_end) FROM invoices WHERE account = name) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 'no day')
    FROM billing_accounts
    WHERE coalesce((SELECT max(period_end) FROM invoices WHERE account = name), anchor::timestamp AT TIME ZONE 'UTC')
        < $1 + interval '7 days'
    ORDER BY name LIMIT 1), '')
$$;

-- As the owner of the tables, for whoever may delete events: drops the oldest month of those that ended so many months
-- before this one. Nobody writes meanwhile, so nothing of it is missing in the sums. `part` null: there is none; `kept`: why
-- it was not dropped.
CREATE FUNCTION usage_month_drop(months integer, OUT part text, OUT kept text)
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $$
DECLARE
    ended timestamptz;
BEGIN
    IF months < 1 OR NOT has_table_privilege(session_user, 'usage_events', 'DELETE') THEN
        RAISE insufficient_privilege USING MESSAGE = 'months are dropped for who may delete from usage_events';
    END IF;
    PERFORM pg_advisory_xact_lock(7263517098);
    SELECT until, name INTO ended, part FROM usage_months
    WHERE ledger = 'usage_events' AND until <= (date_trunc('month', now() AT TIME ZONE 'UTC')
        - make_interval(months => months)) AT TIME ZONE 'UTC' ORDER BY until LIMIT 1;
    IF part IS NULL THEN
        RETURN;
    END IF;
    kept := usage_kept_by(ended);
    IF kept = '' THEN
        LOCK TABLE usage_events, call_outcomes IN ACCESS EXCLUSIVE MODE;
        kept := usage_kept_by(ended);
    END IF;
    IF kept = '' THEN
        EXECUTE format('DROP TABLE %I, %I', part, replace(part, 'usage_events', 'call_outcomes'));
        -- What comes again from there was counted: it is refused, and kept in usage_rejects.
        ALTER TABLE usage_events_other DROP CONSTRAINT IF EXISTS its_month_was_dropped;
        EXECUTE format('ALTER TABLE usage_events_other ADD CONSTRAINT its_month_was_dropped CHECK (decision_id >= %L) NOT VALID',
            usage_first_id(ended));
    END IF;
END $$;

-- What bills add to the sums by day: the changes that are not in them yet, each with its sign.
CREATE VIEW usage_unsummed AS
SELECT changed.decision_id, event.occurred_at AS at, client, issuer, usage_owner(client, subject) AS subject, model,
    model_version, route, counts.*, 1 AS calls
FROM (SELECT DISTINCT decision_id FROM usage_changes) AS changed
JOIN usage_events AS event USING (decision_id) LEFT JOIN call_outcomes AS settled USING (decision_id)
CROSS JOIN LATERAL usage_counts(
    event.reason, event.path, settled.status, settled.grpc_status, settled.flags, settled.upstream_ms,
    settled.duration_ms, settled.units, settled.bytes_in, settled.bytes_out
) AS counts
UNION ALL
SELECT changed.decision_id, coalesce(occurred_before, event.occurred_at), client, issuer, usage_owner(client, subject), model,
    model_version, route, outcome, billed, -requests, -counts.units, -counts.bytes_in, -counts.bytes_out, -seconds, -1
FROM (
    SELECT decision_id, bool_or(change = 'event') AS is_new, bool_or(change = 'outcome') AS is_settled,
        max(occurred_at) AS occurred_before, max(reason) AS reason_before
    FROM usage_changes GROUP BY decision_id
) AS changed
JOIN usage_events AS event USING (decision_id)
LEFT JOIN call_outcomes AS settled ON settled.decision_id = changed.decision_id AND NOT is_settled
CROSS JOIN LATERAL usage_counts(
    coalesce(reason_before, event.reason), event.path, settled.status, settled.grpc_status, settled.flags,
    settled.upstream_ms, settled.duration_ms, settled.units, settled.bytes_in, settled.bytes_out
) AS counts
WHERE NOT is_new;

COMMENT ON VIEW usage_unsummed IS 'what each decision with a change counts for now, and, negative, what it counted for before';

-- Who pays: of calls with API tokens of our own, whose names are no clients, the owner.
CREATE FUNCTION usage_payer(client text, subject text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN starts_with($1, 'tollgate:') THEN $2 ELSE $1 END
$$;
CREATE INDEX usage_daily_payer ON usage_daily (usage_payer(client, subject), day);

DO $$
DECLARE
    name text;
BEGIN
    PERFORM usage_grants_as('usage_changes', 'usage_unsummed', 'SELECT');
    FOREACH name IN ARRAY ARRAY['usage_daily', 'usage_changes', 'usage_unsummed'] LOOP
        PERFORM usage_grants_as('billable', name::regclass, 'SELECT');
    END LOOP;
    FOREACH name IN ARRAY ARRAY['usage_months_ahead()', 'usage_month_drop(integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
DROP FUNCTION usage_grants_as(regclass, regclass, text);

SELECT usage_months_ahead();
