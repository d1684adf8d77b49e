-- For `tollgate decisions --user`: the decisions of one user, the latest first, by subject or by name. A decision id
-- begins with the time at which it was minted. Building the indexes takes seconds per million rows, and the usage
-- worker waits for it.
ALTER TABLE usage_events ADD COLUMN username text NOT NULL DEFAULT '';

COMMENT ON COLUMN usage_events.username IS
    'preferred_username, if the policy keeps it (explain: {usernames: true}); emptied together with facts';

CREATE INDEX usage_events_subject ON usage_events (subject, decision_id) WHERE subject <> '';
CREATE INDEX usage_events_username ON usage_events (lower(username), decision_id) WHERE username <> '';

-- As in 0006, but for the column; authorizers of an older version write the name into facts.
CREATE OR REPLACE FUNCTION usage_events_see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO tokens_seen AS held (iss, token_id, issuer, session, subject, client, username, last_seen_at)
    SELECT issuer, token_id, coalesce(facts->>'issuer_name', ''), coalesce(facts->>'session', ''), subject, client,
           coalesce(nullif(username, ''), facts->>'username', ''), occurred_at
    FROM (
        SELECT DISTINCT ON (issuer COLLATE "C", token_id COLLATE "C")
               issuer, token_id, subject, client, username, facts, occurred_at
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
