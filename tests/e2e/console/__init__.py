"""The console in a real browser, over real Postgres, Redis and identity provider."""
