-- Owners whose state at the identity provider is looked up: users who have called lately or have API tokens, and service
-- accounts. `owners` has the result; here is who is next.
CREATE TABLE polled_owners (
    issuer     text NOT NULL,
    subject    text NOT NULL,
    priority   smallint NOT NULL DEFAULT 1 CHECK (priority BETWEEN 0 AND 2),
    due_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_until  timestamptz NOT NULL DEFAULT '-infinity',
    seen_at    timestamptz,
    checked_at timestamptz,
    enabled    boolean,
    not_before timestamptz,
    PRIMARY KEY (issuer, subject)
);

COMMENT ON COLUMN polled_owners.priority IS '2: something happened to this one; 1: to many, or never looked up; 0: nothing known';
COMMENT ON COLUMN polled_owners.due_at IS 'when priority was raised last: what was looked up before does not count';
COMMENT ON COLUMN polled_owners.not_until IS 'looking it up failed: not again before';
COMMENT ON COLUMN polled_owners.enabled IS 'when last looked up; null: not found so far, so that it cannot have been deleted';
COMMENT ON COLUMN polled_owners.not_before IS 'of the user at the identity provider, already in force here';

CREATE INDEX polled_owners_due ON polled_owners (issuer, priority DESC, seen_at DESC NULLS LAST) WHERE priority > 0;
CREATE INDEX polled_owners_checked_at ON polled_owners (issuer, checked_at);
