-- When and from where API tokens were last used; revocations in the audit log; indexes.

ALTER TABLE tokens ADD COLUMN used_at timestamptz, ADD COLUMN used_from text NOT NULL DEFAULT '';
COMMENT ON COLUMN tokens.used_at IS 'to about ten seconds, refused calls too; written by a trigger of the ledger, as used_from';

CREATE INDEX tokens_kid ON tokens (kid, expires_at);
CREATE INDEX tokens_expires_at ON tokens (expires_at);
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);

ALTER TABLE tokens_seen ADD COLUMN address text NOT NULL DEFAULT '';
COMMENT ON COLUMN tokens_seen.address IS 'of the caller, as far as the policy keeps facts';

-- As in 0007, but for the address, and what is known of our own tokens longer than a week. Who changes a row of tokens here
-- has the one of tokens_seen locked, in order, so two usage workers never wait for each other.
CREATE OR REPLACE FUNCTION usage_events_see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    WITH seen AS (
        INSERT INTO tokens_seen AS held (iss, token_id, issuer, session, subject, client, username, last_seen_at, address)
        SELECT issuer, token_id, coalesce(facts->>'issuer_name', ''), coalesce(facts->>'session', ''), subject, client,
               coalesce(nullif(username, ''), facts->>'username', ''), occurred_at,
               coalesce(facts->>'address', facts->>'source', '')
        FROM (
            SELECT DISTINCT ON (issuer COLLATE "C", token_id COLLATE "C")
                   issuer, token_id, subject, client, username, facts, occurred_at
            FROM inserted WHERE subject <> '' AND token_id <> ''
            ORDER BY issuer COLLATE "C", token_id COLLATE "C", occurred_at DESC
        ) AS latest
        WHERE NOT EXISTS (
            SELECT FROM tokens_seen AS earlier WHERE earlier.iss = latest.issuer AND earlier.token_id = latest.token_id
            AND earlier.last_seen_at > latest.occurred_at - interval '10 seconds'
            AND (earlier.issuer <> '' OR latest.facts IS NULL)
        )
        ON CONFLICT (iss, token_id) DO UPDATE SET
            last_seen_at = excluded.last_seen_at,
            issuer = coalesce(nullif(excluded.issuer, ''), held.issuer),
            session = coalesce(nullif(excluded.session, ''), held.session),
            username = coalesce(nullif(excluded.username, ''), held.username),
            address = coalesce(nullif(excluded.address, ''), held.address)
        WHERE held.last_seen_at < excluded.last_seen_at
        RETURNING token_id, client, last_seen_at, address
    )
    UPDATE tokens SET used_at = last_seen_at, used_from = address FROM seen
    WHERE jti = token_id AND client LIKE 'tollgate:%' AND (used_at IS NULL OR used_at < last_seen_at);
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;

-- The lock is held until the commit, and every other change waits for it: a client that is frozen in between is cut off.
CREATE OR REPLACE FUNCTION audit_log_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last audit_log;
BEGIN
    PERFORM pg_advisory_xact_lock(7263517092);
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    SELECT * INTO last FROM audit_log ORDER BY position DESC LIMIT 1;
    NEW.position := coalesce(last.position, 0) + 1;
    NEW.previous := coalesce(last.hash, '\x');
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    NEW.hash := audit_hash(NEW);
    RETURN NEW;
END $$;

-- Whoever revokes, and however: in the transaction of the revocation, and at its end, since everybody takes the lock of the
-- audit log last. What ran out by itself is no change of anybody.
CREATE FUNCTION revocation_history_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit_log (actor, via, address, action, object, details) VALUES (
        NEW.actor, coalesce(nullif(current_setting('tollgate.via', true), ''), 'sql'),
        coalesce(current_setting('tollgate.address', true), ''),
        CASE NEW.change WHEN 'lifted' THEN 'revocation.lifted' ELSE 'revocation.created' END,
        concat_ws(':', NEW.kind, NEW.issuer, nullif(NEW.value, '')),
        jsonb_build_object('change', NEW.change, 'reason', NEW.reason, 'not_before', NEW.not_before,
            'expires_at', NEW.expires_at));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit AFTER INSERT ON revocation_history DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.change <> 'expired') EXECUTE FUNCTION revocation_history_audit();

COMMENT ON COLUMN audit_log.via IS 'console, rest, grpc, cli or signal; sql: it did not say';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_events_see', 'audit_log_chain', 'revocation_history_audit'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
