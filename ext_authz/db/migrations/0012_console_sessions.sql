-- When the identity provider is asked about a session again, and what the next page of it says once.
ALTER TABLE console_sessions
    ADD COLUMN refresh_at timestamptz NOT NULL DEFAULT 'infinity',
    ADD COLUMN flash bytea;

COMMENT ON COLUMN console_sessions.refresh_at IS 'whoever moves it forward refreshes: a refresh token is good for one use';
COMMENT ON COLUMN console_sessions.flash IS 'encrypted: a new API token, or a sentence; removed by the page that shows it';
