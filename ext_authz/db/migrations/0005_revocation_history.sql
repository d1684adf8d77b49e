-- Every change to a revocation, whoever made it and however: what is revoked again keeps who, when and why of the first.
-- A row says how things stood after the change; how they stood before says the row before it.
CREATE TABLE revocation_history (
    position   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL,
    issuer     text NOT NULL,
    value      text NOT NULL,
    change     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL,
    role       text NOT NULL DEFAULT session_user,
    reason     text NOT NULL,
    not_before timestamptz,
    expires_at timestamptz NOT NULL
);

COMMENT ON COLUMN revocation_history.change IS 'revoked, revoked again, changed, lifted or expired (the row is gone)';
COMMENT ON COLUMN revocation_history.actor IS 'who, as the command or the statement says: set_config(''tollgate.actor'', ...), or the columns actor and lifted_by';
COMMENT ON COLUMN revocation_history.role IS 'who was logged in to Postgres, whatever anybody says';

INSERT INTO revocation_history (kind, issuer, value, change, at, actor, role, reason, not_before, expires_at)
SELECT kind, issuer, value, 'revoked', created_at, actor, '', reason, not_before, expires_at FROM revocations
UNION ALL
SELECT kind, issuer, value, 'lifted', lifted_at, coalesce(lifted_by, ''), '', '', not_before, expires_at
FROM revocations WHERE lifted_at IS NOT NULL
ORDER BY 5;

CREATE INDEX revocation_history_value ON revocation_history (value, position);
-- For `tollgate revocations list`, a page at a time.
CREATE INDEX revocations_created_at ON revocations (created_at, id);

-- With the rights of its owner: who may write revocations need not be able to write history.
CREATE FUNCTION revocations_remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    actor_said  text := nullif(current_setting('tollgate.actor', true), '');
    reason_said text := nullif(current_setting('tollgate.reason', true), '');
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO revocation_history (kind, issuer, value, change, actor, reason, not_before, expires_at)
        SELECT kind, issuer, value, 'revoked', coalesce(actor_said, actor), coalesce(reason_said, reason),
               not_before, expires_at
        FROM now_there;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO revocation_history (kind, issuer, value, change, actor, reason, not_before, expires_at)
        SELECT kind, issuer, value, 'expired', coalesce(actor_said, session_user), coalesce(reason_said, ''),
               not_before, expires_at
        FROM was_there;
    ELSE
        INSERT INTO revocation_history (kind, issuer, value, change, actor, reason, not_before, expires_at)
        SELECT n.kind, n.issuer, n.value,
               CASE WHEN o.lifted_at IS NULL AND n.lifted_at IS NOT NULL THEN 'lifted'
                    WHEN n.lifted_at IS NOT NULL OR n.expires_at < o.expires_at THEN 'changed'
                    WHEN o.lifted_at IS NOT NULL OR o.expires_at + interval '5 minutes' <= now() THEN 'revoked'
                    ELSE 'revoked again' END,
               coalesce(actor_said,
                        CASE WHEN n.lifted_by IS DISTINCT FROM o.lifted_by THEN n.lifted_by END,
                        CASE WHEN n.actor <> o.actor THEN n.actor END,
                        session_user),
               coalesce(reason_said, CASE WHEN n.reason <> o.reason THEN n.reason END, ''),
               n.not_before, n.expires_at
        FROM now_there n JOIN was_there o USING (id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER remember_insert AFTER INSERT ON revocations
    REFERENCING NEW TABLE AS now_there FOR EACH STATEMENT EXECUTE FUNCTION revocations_remember();
CREATE TRIGGER remember_update AFTER UPDATE ON revocations
    REFERENCING OLD TABLE AS was_there NEW TABLE AS now_there FOR EACH STATEMENT EXECUTE FUNCTION revocations_remember();
CREATE TRIGGER remember_delete AFTER DELETE ON revocations
    REFERENCING OLD TABLE AS was_there FOR EACH STATEMENT EXECUTE FUNCTION revocations_remember();

CREATE FUNCTION revocation_history_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < now() - interval '1 year' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the history of revocations is only added to; what is older than a year may be deleted';
END $$;

CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON revocation_history
    FOR EACH ROW EXECUTE FUNCTION revocation_history_keep();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON revocation_history
    FOR EACH STATEMENT EXECUTE FUNCTION revocation_history_keep();

-- As before, and: what is in force keeps who, when and why, and is never weakened by revoking it again; what was lifted or
-- had run out begins anew; nobody believes to have revoked again what stays out of force; and a value that no token can
-- carry (identity/claims.py) is refused.
CREATE OR REPLACE FUNCTION revocations_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    actor_said  text := nullif(current_setting('tollgate.actor', true), '');
    reason_said text := nullif(current_setting('tollgate.reason', true), '');
    in_force    boolean;
BEGIN
    NEW.xid := pg_current_xact_id();
    NEW.revision := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    IF NEW.not_before IS NULL AND NEW.kind IN ('user', 'client', 'issuer') THEN
        NEW.not_before := clock_timestamp();
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.actor := coalesce(actor_said, NEW.actor);
        NEW.reason := coalesce(reason_said, NEW.reason);
        IF length(NEW.value) > 255 OR NEW.value ~ '[\x01-\x1f\x7f]' THEN
            RAISE EXCEPTION 'no token can carry this value: it must be 1 to 255 printable characters'
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    NEW.revision := greatest(NEW.revision, OLD.revision + 1);
    IF (NEW.kind, NEW.issuer, NEW.value) IS DISTINCT FROM (OLD.kind, OLD.issuer, OLD.value) THEN
        RAISE EXCEPTION 'a revocation cannot be turned into another one: lift it and insert a new row';
    END IF;
    IF NEW.lifted_at IS NOT NULL THEN
        IF OLD.lifted_at IS NULL THEN
            NEW.lifted_by := coalesce(actor_said, NEW.lifted_by, session_user);
        END IF;
        RETURN NEW;
    END IF;
    NEW.lifted_by := NULL;
    in_force := OLD.lifted_at IS NULL AND OLD.expires_at + interval '5 minutes' > now();
    IF NEW.expires_at <= now() AND (NEW.expires_at = OLD.expires_at OR NOT in_force) THEN
        RAISE EXCEPTION 'this revocation ran out at %: set expires_at too', OLD.expires_at
            USING ERRCODE = 'check_violation';
    END IF;
    IF in_force THEN
        NEW.not_before := greatest(NEW.not_before, OLD.not_before);
    ELSE
        NEW.created_at := now();
        NEW.actor := coalesce(actor_said, CASE WHEN NEW.actor <> OLD.actor THEN NEW.actor END, session_user);
        NEW.reason := coalesce(reason_said, CASE WHEN NEW.reason <> OLD.reason THEN NEW.reason END, '');
    END IF;
    RETURN NEW;
END $$;

-- Not the caller's search path: a temporary table of the same name would catch the history.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION revocations_remember() SET search_path = %I, pg_temp', current_schema());
END $$;

COMMENT ON TABLE revocations IS
    'INSERT INTO revocations (kind, issuer, value) VALUES (''user'', ''<name in the policy>'', ''<sub>'')
     ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, lifted_at = NULL,
     expires_at = greatest(revocations.expires_at, excluded.expires_at);
     in force within TOLLGATE_REVOCATION_POLL seconds of the commit. To lift: UPDATE revocations SET lifted_at = now() WHERE ...
     Who and why: SELECT set_config(''tollgate.actor'', ''alice'', true), set_config(''tollgate.reason'', ''...'', true)
     before it in the same transaction; every change is in revocation_history.';
