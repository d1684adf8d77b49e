-- Own API tokens: who owns them, what they may do, the keys that sign them, the people who are signed in to the console,
-- and a log of every change that nobody can edit.

-- What the identity provider says of a caller. A worker keeps a copy of this table and looks it up for every token that it
-- verifies; the column xid is how it finds what changed.
CREATE TABLE owners (
    issuer         text NOT NULL,
    subject        text NOT NULL,
    kind           text NOT NULL DEFAULT 'user' CHECK (kind IN ('user', 'service')),
    "group"        text NOT NULL DEFAULT '',
    username       text NOT NULL DEFAULT '',
    roles          text[] NOT NULL DEFAULT '{}',
    groups         text[] NOT NULL DEFAULT '{}',
    scopes         text[] NOT NULL DEFAULT '{}',
    claims         jsonb NOT NULL DEFAULT '{}',
    signed_in_at   timestamptz,
    current_roles  text[],
    current_groups text[],
    enabled        boolean NOT NULL DEFAULT true,
    checked_at     timestamptz,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (issuer, subject),
    CHECK ((kind = 'service') = ("group" <> ''))
);

COMMENT ON COLUMN owners.issuer IS 'its name in the policy';
COMMENT ON COLUMN owners."group" IS 'path of the group that a service account belongs to';
COMMENT ON COLUMN owners.roles IS 'of the last sign-in, as groups, scopes and claims; of a service account what it was given';
COMMENT ON COLUMN owners.current_roles IS 'as the identity provider said at checked_at, as current_groups; null: it was never asked';

CREATE INDEX owners_xid ON owners (xid);
CREATE INDEX owners_group ON owners (issuer, "group") WHERE "group" <> '';

CREATE FUNCTION owners_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.xid := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON owners FOR EACH ROW EXECUTE FUNCTION owners_stamp();

-- One per thing that calls: it lives on when its token is renewed.
CREATE TABLE grants (
    id          uuid PRIMARY KEY,
    issuer      text NOT NULL,
    subject     text NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    scopes      text[] NOT NULL DEFAULT '{}',
    models      text[],
    roles       text[],
    lifetime    interval NOT NULL,
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    revoked_at  timestamptz,
    revoked_by  text NOT NULL DEFAULT '',
    reminded_at timestamptz,
    FOREIGN KEY (issuer, subject) REFERENCES owners (issuer, subject)
);

COMMENT ON COLUMN grants.models IS 'names or patterns; null: all that the owner may use, as for roles';
COMMENT ON COLUMN grants.lifetime IS 'of each of its tokens';
COMMENT ON COLUMN grants.version IS 'grows by one with every change: who changes says which one they saw';

CREATE INDEX grants_owner ON grants (issuer, subject, created_at, id);
CREATE UNIQUE INDEX grants_name ON grants (issuer, subject, name) WHERE revoked_at IS NULL;
CREATE INDEX grants_created_at ON grants (created_at, id);

-- Never the token itself.
CREATE TABLE tokens (
    jti         text PRIMARY KEY,
    grant_id    uuid NOT NULL REFERENCES grants (id),
    kid         text NOT NULL,
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    ends_at     timestamptz,
    issued_by   text NOT NULL,
    issued_from text NOT NULL DEFAULT ''
);

COMMENT ON COLUMN tokens.ends_at IS 'when it was replaced or revoked, the grace of a renewal included';

CREATE INDEX tokens_grant ON tokens (grant_id, issued_at);

CREATE TABLE signing_keys (
    kid          text PRIMARY KEY,
    algorithm    text NOT NULL,
    public_key   jsonb NOT NULL,
    private_key  bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    signs_from   timestamptz NOT NULL,
    retired_at   timestamptz,
    withdrawn_at timestamptz
);

COMMENT ON COLUMN signing_keys.private_key IS 'encrypted with a key of TOLLGATE_CONSOLE_KEYS';
COMMENT ON COLUMN signing_keys.signs_from IS 'published before, so that everybody knows it when it is first used';
COMMENT ON COLUMN signing_keys.retired_at IS 'signs no more, still published: its tokens live on';
COMMENT ON COLUMN signing_keys.withdrawn_at IS 'published no more: its tokens are dead';

-- The answer to a request that created something, for those who repeat it.
CREATE TABLE idempotency_keys (
    actor      text NOT NULL,
    key        text NOT NULL,
    request    bytea NOT NULL,
    token      text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (actor, key)
);

COMMENT ON COLUMN idempotency_keys.request IS 'SHA-256 of what was asked for: another request under the same key is a mistake';
COMMENT ON COLUMN idempotency_keys.token IS 'jti: the same token is signed again, none is kept';

-- Who is signed in to the console. The cookie holds the id, and here is only its hash.
CREATE TABLE console_sessions (
    id         bytea PRIMARY KEY,
    issuer     text NOT NULL,
    subject    text NOT NULL,
    sid        text NOT NULL DEFAULT '',
    secret     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    address    text NOT NULL DEFAULT ''
);

COMMENT ON COLUMN console_sessions.secret IS 'encrypted: the tokens of the identity provider';

CREATE INDEX console_sessions_subject ON console_sessions (issuer, subject);
CREATE INDEX console_sessions_expires_at ON console_sessions (expires_at);

-- Background work that one process does for all, and where it continues.
CREATE TABLE leases (
    name     text PRIMARY KEY,
    holder   text NOT NULL DEFAULT '',
    until    timestamptz NOT NULL DEFAULT '-infinity',
    position jsonb
);

-- Signals that were obeyed: none is obeyed twice.
CREATE TABLE signals_seen (
    issuer     text NOT NULL,
    jti        text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (issuer, jti)
);

CREATE INDEX signals_seen_expires_at ON signals_seen (expires_at);

-- Each row holds the hash of the one before: what is changed or taken out later shows.
CREATE TABLE audit_log (
    position bigint PRIMARY KEY,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    role     text NOT NULL,
    via      text NOT NULL,
    address  text NOT NULL,
    action   text NOT NULL,
    object   text NOT NULL,
    details  jsonb NOT NULL,
    previous bytea NOT NULL,
    hash     bytea NOT NULL
);

COMMENT ON COLUMN audit_log.actor IS 'who, as verified by the console or said by the command';
COMMENT ON COLUMN audit_log.role IS 'who was logged in to Postgres, whatever anybody says';
COMMENT ON COLUMN audit_log.via IS 'console, rest, grpc, cli or signal';

CREATE INDEX audit_log_object ON audit_log (object, position);
CREATE INDEX audit_log_actor ON audit_log (actor, position);

CREATE FUNCTION audit_hash(entry audit_log) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(entry.previous || convert_to(jsonb_build_array(
        entry.position, extract(epoch FROM entry.at)::text, entry.actor, entry.role, entry.via, entry.address,
        entry.action, entry.object, entry.details)::text, 'UTF8'))
$$;

-- The rows of one transaction follow each other, and the next transaction waits for its commit: there is one chain.
CREATE FUNCTION audit_log_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last audit_log;
BEGIN
    PERFORM pg_advisory_xact_lock(7263517092);
    SELECT * INTO last FROM audit_log ORDER BY position DESC LIMIT 1;
    NEW.position := coalesce(last.position, 0) + 1;
    NEW.previous := coalesce(last.hash, '\x');
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    NEW.hash := audit_hash(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER chain BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_chain();

CREATE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to';
END $$;
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_keep();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_log_keep();

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION audit_log_chain() SET search_path = %I, pg_temp', current_schema());
END $$;
