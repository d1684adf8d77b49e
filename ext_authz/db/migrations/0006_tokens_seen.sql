-- The tokens that the ledger has seen lately: for operators who revoke, to find a user by name and to learn what is hit.
-- usage/seen.py reads it; the usage worker deletes what was not seen for a week.
CREATE TABLE tokens_seen (
    iss          text NOT NULL,
    token_id     text NOT NULL,
    issuer       text NOT NULL,
    session      text NOT NULL,
    subject      text NOT NULL,
    client       text NOT NULL,
    username     text NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (iss, token_id)
) WITH (fillfactor = 90);  -- room on each page for the next last_seen_at, which is in no index

CREATE INDEX tokens_seen_session ON tokens_seen (session) WHERE session <> '';
CREATE INDEX tokens_seen_subject ON tokens_seen (subject);
CREATE INDEX tokens_seen_client ON tokens_seen (client) WHERE client <> '';
CREATE INDEX tokens_seen_username ON tokens_seen (lower(username)) WHERE username <> '';

COMMENT ON COLUMN tokens_seen.issuer IS 'its name in the policy; empty where the policy keeps no facts (explain: {keep: 0s})';
COMMENT ON COLUMN tokens_seen.username IS 'preferred_username, in the same way';

INSERT INTO tokens_seen (iss, token_id, issuer, session, subject, client, username, last_seen_at)
SELECT issuer, token_id, '', '', min(subject), min(client), '', max(occurred_at) FROM usage_events
WHERE occurred_at > now() - interval '1 day' AND subject <> '' AND token_id <> ''
GROUP BY issuer, token_id;

-- Sorted, so that two usage workers never wait for each other; a token that was seen within ten seconds is left alone. What
-- cannot be read is left out here: the ledger itself goes before.
CREATE FUNCTION usage_events_see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO tokens_seen AS held (iss, token_id, issuer, session, subject, client, username, last_seen_at)
    SELECT issuer, token_id, coalesce(facts->>'issuer_name', ''), coalesce(facts->>'session', ''), subject, client,
           coalesce(facts->>'username', ''), occurred_at
    FROM (
        SELECT DISTINCT ON (issuer COLLATE "C", token_id COLLATE "C")
               issuer, token_id, subject, client, facts, occurred_at
        FROM inserted WHERE subject <> '' AND token_id <> ''
        ORDER BY issuer COLLATE "C", token_id COLLATE "C", occurred_at DESC
    ) AS latest
    WHERE NOT EXISTS (
        SELECT FROM tokens_seen AS seen WHERE seen.iss = latest.issuer AND seen.token_id = latest.token_id
        AND seen.last_seen_at > latest.occurred_at - interval '10 seconds'
        AND (seen.issuer <> '' OR latest.facts IS NULL)
    )
    ON CONFLICT (iss, token_id) DO UPDATE SET
        last_seen_at = excluded.last_seen_at,
        issuer = coalesce(nullif(excluded.issuer, ''), held.issuer),
        session = coalesce(nullif(excluded.session, ''), held.session),
        username = coalesce(nullif(excluded.username, ''), held.username)
    WHERE held.last_seen_at < excluded.last_seen_at;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_events_see() SET search_path = %I, pg_temp', current_schema());
END $$;

CREATE TRIGGER see AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_events_see();
