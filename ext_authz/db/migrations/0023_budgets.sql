-- Budgets of billing accounts: who is told when how much of one is used, and whose calls are refused.
CREATE TABLE billing_budgets (
    account    text PRIMARY KEY REFERENCES billing_accounts (name),
    amount     numeric CHECK (amount > 0 AND amount < 1e15),
    thresholds smallint[] NOT NULL CHECK (cardinality(thresholds) BETWEEN 1 AND 10),
    mail       text[] NOT NULL CHECK (cardinality(mail) <= 10),
    stops      boolean NOT NULL,
    looked_at  timestamptz NOT NULL DEFAULT '-infinity'
);

COMMENT ON COLUMN billing_budgets.amount IS 'per billing period, in the currency of the bill; null: there is none any more';
COMMENT ON COLUMN billing_budgets.thresholds IS 'in percent';

-- One row per target of an alert: each is told once.
CREATE TABLE billing_alerts (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account      text NOT NULL REFERENCES billing_accounts (name),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    budget       numeric NOT NULL,
    threshold    smallint NOT NULL,
    target       text NOT NULL,
    total        numeric NOT NULL,
    currency     text NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT now(),
    try_at       timestamptz NOT NULL DEFAULT now(),
    tries        int NOT NULL DEFAULT 0,
    error        text NOT NULL DEFAULT '',
    sent_at      timestamptz,
    UNIQUE (account, period_start, budget, threshold, target)
);

COMMENT ON COLUMN billing_alerts.target IS 'log, webhook, or an address of mail';

CREATE INDEX billing_alerts_due ON billing_alerts (try_at) WHERE sent_at IS NULL;

-- Whose calls are refused, by counters in Redis. What is lifted there is deleted here afterwards.
CREATE TABLE billing_stops (
    account text NOT NULL REFERENCES billing_accounts (name),
    counter text NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    until   timestamptz NOT NULL,
    lifted  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account, counter)
);
