-- What members publish in the catalogue: datasets, processors, and what is said of models (ADR 66).

-- The number of the last change. A change takes the next one, and holds the row until it commits: so numbers are
-- committed in their order, and who has read up to one has missed none before it.
CREATE TABLE catalogue_state (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    position bigint NOT NULL
);
INSERT INTO catalogue_state (position) VALUES (0);

CREATE TABLE catalogue_entries (
    collection  text NOT NULL CHECK (collection IN ('ai-model', 'dataset', 'processor')),
    id          text NOT NULL,
    name        text NOT NULL,
    issuer      text NOT NULL,
    owner       text NOT NULL,
    owner_name  text NOT NULL,
    "group"     text NOT NULL DEFAULT '',
    maintainers text[] NOT NULL DEFAULT '{}',
    visibility  text NOT NULL CHECK (visibility IN ('private', 'public')),
    stars       integer NOT NULL DEFAULT 0 CHECK (stars >= 0),
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    position    bigint NOT NULL UNIQUE,
    PRIMARY KEY (collection, id)
);
CREATE INDEX catalogue_entries_owner ON catalogue_entries (issuer, owner);

COMMENT ON COLUMN catalogue_entries.owner IS 'subject; empty: a model that somebody has starred, and nobody has published';
COMMENT ON COLUMN catalogue_entries.version IS 'of this row, for whoever changes it: grows with every change but those of stars';
COMMENT ON COLUMN catalogue_entries.position IS 'the number of its last change';

CREATE TABLE catalogue_versions (
    collection text NOT NULL,
    id         text NOT NULL,
    version    text NOT NULL,
    revision   integer NOT NULL,
    published  boolean NOT NULL,
    position   bigint NOT NULL,
    PRIMARY KEY (collection, id, version),
    FOREIGN KEY (collection, id) REFERENCES catalogue_entries
);
COMMENT ON COLUMN catalogue_versions.revision IS 'the last one';
COMMENT ON COLUMN catalogue_versions.position IS 'of the change that published it first: the order of versions';

-- What was published, each time. Rows are never changed: runs refer to them.
CREATE TABLE catalogue_revisions (
    collection   text NOT NULL,
    id           text NOT NULL,
    version      text NOT NULL,
    revision     integer NOT NULL,
    document     jsonb NOT NULL,
    terms        text NOT NULL,
    published_by text NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (collection, id, version, revision),
    FOREIGN KEY (collection, id, version) REFERENCES catalogue_versions
);
COMMENT ON COLUMN catalogue_revisions.terms IS 'those that whoever published it accepted then';

CREATE TABLE catalogue_stars (
    issuer     text NOT NULL,
    subject    text NOT NULL,
    collection text NOT NULL,
    id         text NOT NULL,
    PRIMARY KEY (issuer, subject, collection, id),
    FOREIGN KEY (collection, id) REFERENCES catalogue_entries
);

CREATE TABLE catalogue_runs (
    id         uuid PRIMARY KEY,
    issuer     text NOT NULL,
    subject    text NOT NULL,
    collection text NOT NULL,
    entry      text NOT NULL,
    version    text NOT NULL,
    revision   integer NOT NULL,
    parameters jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    FOREIGN KEY (collection, entry, version, revision) REFERENCES catalogue_revisions
);
CREATE INDEX catalogue_runs_whose ON catalogue_runs (issuer, subject, id);
COMMENT ON TABLE catalogue_runs IS 'runs of processors, with the parameters that they got, all of them';
