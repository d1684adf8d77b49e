"""What happens at Keycloak comes into force: over fake, embedded and real ones."""
