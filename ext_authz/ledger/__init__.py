"""One event per decision: from the authorizer through a Redis stream into Postgres, each exactly once.

For others: `event.Event` and `event.DecisionRecord` to write, `queries` to read; `commands` is `tollgate usage`.
"""
