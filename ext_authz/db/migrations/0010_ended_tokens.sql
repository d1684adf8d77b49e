-- A token that was replaced ends before it expires. Workers find that where they look the owner up.

ALTER TABLE owners ADD COLUMN ends jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN owners.ends IS 'by jti: the second at which tokens end that have not expired; kept by a trigger of tokens';

CREATE FUNCTION tokens_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    owner grants;
BEGIN
    SELECT * INTO owner FROM grants WHERE id = NEW.grant_id;
    PERFORM FROM owners WHERE (issuer, subject) = (owner.issuer, owner.subject) FOR UPDATE;
    UPDATE owners SET ends = (
        SELECT coalesce(jsonb_object_agg(jti, floor(extract(epoch FROM ends_at))), '{}')
        FROM tokens JOIN grants ON grants.id = grant_id
        WHERE (issuer, subject) = (owner.issuer, owner.subject)
            AND ends_at IS NOT NULL AND expires_at > now() - interval '5 minutes')
    WHERE (issuer, subject) = (owner.issuer, owner.subject);
    RETURN NULL;
END $$;
CREATE TRIGGER ended AFTER INSERT OR UPDATE OF ends_at ON tokens
    FOR EACH ROW WHEN (NEW.ends_at IS NOT NULL) EXECUTE FUNCTION tokens_end();
