"""What happens at the identity provider, and what it means here: a revocation, or another standing of an owner."""
