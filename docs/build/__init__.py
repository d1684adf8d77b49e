"""The configuration of the documentation site, and references generated from code. Not in the wheel."""
