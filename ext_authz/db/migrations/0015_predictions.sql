-- The prediction log: what models answered, kept for their owners as the policy says.
CREATE TABLE predictions (
    model        text NOT NULL,
    id           uuid NOT NULL,
    decision_id  uuid NOT NULL,
    row          integer NOT NULL,
    at           timestamptz NOT NULL,
    version      text NOT NULL,
    variant      text NOT NULL,
    mirrored     boolean NOT NULL,
    issuer       text NOT NULL,
    subject      text NOT NULL,
    client       text NOT NULL,
    inputs       jsonb,
    input_hash   bytea,
    outputs      jsonb,
    milliseconds double precision NOT NULL,
    bytes        bigint NOT NULL,
    host         text NOT NULL,
    PRIMARY KEY (model, id)
);

COMMENT ON COLUMN predictions.id IS 'UUID version 7, of the model''s process: in the order of time';
COMMENT ON COLUMN predictions.row IS 'in its request, which may hold several; a stream has several requests of one decision';
COMMENT ON COLUMN predictions.variant IS 'that answered; empty: none was chosen';
COMMENT ON COLUMN predictions.mirrored IS 'a copy of a call that another variant answered: nobody got this answer';
COMMENT ON COLUMN predictions.issuer IS 'as the ledger has it under the decision, as subject and client';
COMMENT ON COLUMN predictions.inputs IS 'null: the policy does not keep them, or they were too long';
COMMENT ON COLUMN predictions.input_hash IS 'HMAC-SHA-256 with TOLLGATE_PREDICTIONS_KEY, where the policy says hashed';
COMMENT ON COLUMN predictions.milliseconds IS 'of the model, for the batch that it was part of';
COMMENT ON COLUMN predictions.bytes IS 'of the inputs';

CREATE INDEX predictions_decision ON predictions (decision_id);

-- What owners deleted: it also holds for what is still in files when they do.
CREATE TABLE prediction_deletions (
    id          uuid PRIMARY KEY,
    model       text NOT NULL,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    decision_id uuid,
    done        boolean NOT NULL DEFAULT false
);

COMMENT ON COLUMN prediction_deletions.until IS 'not after the deletion itself';
COMMENT ON COLUMN prediction_deletions.done IS 'every row that was there is gone';

CREATE INDEX prediction_deletions_model ON prediction_deletions (model, until);
