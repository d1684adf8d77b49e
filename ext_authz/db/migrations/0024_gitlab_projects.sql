-- What a GitLab says of the projects that the policy names. `tollgate gitlab` writes it, every authorizer has a copy.
CREATE TABLE gitlab_projects (
    issuer     text NOT NULL,
    project    text NOT NULL,
    number     bigint,
    visibility text NOT NULL CHECK (visibility IN ('private', 'internal', 'public')),
    members    jsonb NOT NULL CHECK (jsonb_typeof(members) = 'object'),
    digest     text NOT NULL,
    asked_at   timestamptz NOT NULL,
    PRIMARY KEY (issuer, project)
);

COMMENT ON COLUMN gitlab_projects.issuer IS 'its name in the policy';
COMMENT ON COLUMN gitlab_projects.number IS 'of the project that was first seen at this path: another one gives no rights';
COMMENT ON COLUMN gitlab_projects.members IS 'access levels by the number of the user, those of groups above included';
COMMENT ON COLUMN gitlab_projects.digest IS 'of visibility and members: authorizers read a row again when it is another';
COMMENT ON COLUMN gitlab_projects.asked_at IS 'just before GitLab was asked; an older answer never replaces a newer one';
