"""`tollgate gitlab`: learns from a GitLab who is what in its projects, for all authorizers."""
