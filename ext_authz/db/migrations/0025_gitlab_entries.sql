-- Projects of a GitLab that are in the catalogue. `tollgate gitlab` writes it, the console reads it.
CREATE TABLE gitlab_entries (
    issuer      text NOT NULL,
    number      bigint NOT NULL,
    path        text NOT NULL,
    visibility  text NOT NULL CHECK (visibility IN ('private', 'internal', 'public')),
    members     jsonb NOT NULL CHECK (jsonb_typeof(members) = 'object'),
    collections text[] NOT NULL CHECK (collections <@ ARRAY['ai-model', 'dataset', 'processor']),
    about       jsonb NOT NULL,
    commit      text NOT NULL,
    content     jsonb NOT NULL,
    digest      text NOT NULL,
    asked_at    timestamptz NOT NULL,
    PRIMARY KEY (issuer, number)
);

COMMENT ON COLUMN gitlab_entries.issuer IS 'its name in the policy';
COMMENT ON COLUMN gitlab_entries.number IS 'of the project in GitLab, which it keeps when its path changes';
COMMENT ON COLUMN gitlab_entries.about IS 'what GitLab says of the project';
COMMENT ON COLUMN gitlab_entries.content IS 'what README and pointers of Git LFS say, at the commit';
COMMENT ON COLUMN gitlab_entries.digest IS 'of all but the content, which follows from the commit: the console reads a row again when it is another';
COMMENT ON COLUMN gitlab_entries.asked_at IS 'just before GitLab was asked; an older answer never replaces a newer one';
