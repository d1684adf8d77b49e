-- `id` is made of kind, issuer and value: a second unique key over the same let two revocations of one thing that were
-- written at once fail on whichever key ON CONFLICT did not name.
ALTER TABLE revocations DROP CONSTRAINT revocations_kind_issuer_value_key;
CREATE INDEX revocations_kind_issuer_value ON revocations (kind, issuer, value);
COMMENT ON TABLE revocations IS
    'INSERT INTO revocations (kind, issuer, value) VALUES (''user'', ''<name in the policy>'', ''<sub>'')
     ON CONFLICT (id) DO UPDATE SET not_before = now(), lifted_at = NULL;
     in force within TOLLGATE_REVOCATION_POLL seconds of the commit. To lift: UPDATE revocations SET lifted_at = now() WHERE ...';
