-- What is revoked. One row per thing that can be revoked; Redis holds a copy (revocation/mirror.py).
CREATE TABLE revocations (
    id         text GENERATED ALWAYS AS (left(kind, 1) || ':' || issuer || ':' || value) STORED PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('token', 'session', 'user', 'client', 'issuer')),
    issuer     text NOT NULL CHECK (issuer ~ '^[a-z0-9-]{1,32}$'),
    value      text NOT NULL DEFAULT '' CHECK (length(value) <= 512),
    not_before timestamptz CHECK (not_before >= '1970-01-01Z'),
    expires_at timestamptz NOT NULL DEFAULT now() + interval '30 days' CHECK (expires_at < '3000-01-01Z'),
    reason     text NOT NULL DEFAULT '' CHECK (length(reason) <= 1000),
    actor      text NOT NULL DEFAULT current_user CHECK (length(actor) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    lifted_at  timestamptz,
    lifted_by  text CHECK (length(lifted_by) <= 200),
    revision   bigint NOT NULL,
    xid        xid8 NOT NULL,
    UNIQUE (kind, issuer, value),
    CONSTRAINT value_names_what_is_revoked CHECK ((kind = 'issuer') = (value = '')),
    CONSTRAINT not_before_is_for_user_client_issuer CHECK ((kind IN ('token', 'session')) = (not_before IS NULL)),
    CONSTRAINT expires_at_is_later CHECK (expires_at > created_at AND (not_before IS NULL OR expires_at > not_before))
);

CREATE INDEX revocations_xid ON revocations (xid);

COMMENT ON TABLE revocations IS
    'INSERT INTO revocations (kind, issuer, value) VALUES (''user'', ''<name in the policy>'', ''<sub>'')
     ON CONFLICT (kind, issuer, value) DO UPDATE SET not_before = now(), lifted_at = NULL;
     in force within TOLLGATE_REVOCATION_POLL seconds of the commit. To lift: UPDATE revocations SET lifted_at = now() WHERE ...';
COMMENT ON COLUMN revocations.revision IS 'orders the writes to one row; the copy in Redis never goes back to a lower one';
COMMENT ON COLUMN revocations.xid IS 'the transaction that wrote the row last; lets a poll find rows that were committed late';

-- xid, revision: see the comments. Revision is a hybrid clock (microseconds, at least one more than before), so that
-- it does not go back when a standby takes over; the row is locked here, so two writers cannot get the same one.
CREATE FUNCTION revocations_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.xid := pg_current_xact_id();
    NEW.revision := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    IF TG_OP = 'UPDATE' THEN
        NEW.revision := greatest(NEW.revision, OLD.revision + 1);
        IF (NEW.kind, NEW.issuer, NEW.value) IS DISTINCT FROM (OLD.kind, OLD.issuer, OLD.value) THEN
            RAISE EXCEPTION 'a revocation cannot be turned into another one: lift it and insert a new row';
        END IF;
    END IF;
    IF NEW.not_before IS NULL AND NEW.kind IN ('user', 'client', 'issuer') THEN
        NEW.not_before := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON revocations FOR EACH ROW EXECUTE FUNCTION revocations_stamp();

CREATE FUNCTION revocations_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tollgate_revocations', '');
    RETURN NULL;
END $$;

CREATE TRIGGER notify AFTER INSERT OR UPDATE ON revocations FOR EACH STATEMENT EXECUTE FUNCTION revocations_notify();

-- A row that vanishes cannot be told to the copies in Redis, so a row in force is lifted, never deleted.
CREATE FUNCTION revocations_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.expires_at < now() THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'a revocation is lifted, not deleted: UPDATE revocations SET lifted_at = now() WHERE ...';
END $$;

CREATE TRIGGER keep BEFORE DELETE ON revocations FOR EACH ROW EXECUTE FUNCTION revocations_keep();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON revocations FOR EACH STATEMENT EXECUTE FUNCTION revocations_keep();
