"""CEL (https://cel.dev) in a policy: conditions (`when:`) and amounts (`cost:`), compiled once, their cost bounded.

`expressions.py` has `Condition`, `Amount` and `Verdict`, `variables.py` what they read.
"""
