-- What a decision went by (usage/facts.py), for those who explain it later or try another policy on it.
ALTER TABLE usage_events
    ADD COLUMN degraded text NOT NULL DEFAULT '',
    ADD COLUMN facts json;

COMMENT ON COLUMN usage_events.degraded IS 'the dependency without which this was decided (failure policy)';
COMMENT ON COLUMN usage_events.facts IS 'NULL: none were kept, or TOLLGATE_FACTS_KEEP is over; json, not jsonb: nobody searches in it, and it costs less';

-- One row: facts of older decisions are gone (usage/retention.py). None were kept before this migration.
CREATE TABLE usage_facts (
    since timestamptz NOT NULL
);
INSERT INTO usage_facts VALUES (now() - interval '1 day');
