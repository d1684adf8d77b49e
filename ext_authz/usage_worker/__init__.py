"""`tollgate usage-worker`, which moves into Postgres what other processes leave for it."""
