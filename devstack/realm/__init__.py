"""A development identity provider: the URLs, claims and keys of Keycloak 26, from a realm export of Keycloak's.

For development and demonstrations only: passwords are plain text in the export, and it listens on loopback only.
docs/adr/0005-embedded-identity-provider.md has the reasons, and which library implements the protocol.
"""
