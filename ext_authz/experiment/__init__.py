"""Judging a canary by what was recorded: `tollgate experiment`. docs/adr/0046-judging-a-canary.md."""
