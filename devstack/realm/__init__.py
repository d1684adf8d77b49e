"""A development realm: an identity provider that speaks like Keycloak 26, from Keycloak's own realm export.

For development and demonstrations only: passwords are plain text in the export, and it listens on loopback only.
docs/adr/0005-embedded-identity-provider.md says why it exists and which library carries the protocol.
"""
