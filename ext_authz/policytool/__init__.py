"""`tollgate policy` and `tollgate explain`: check, test, explain, compare and replay policies, without any service.

For others: the commands only (`commands.policy`, `explain_recorded.explain`).
"""
