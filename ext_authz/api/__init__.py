"""The interfaces for programs: REST, gRPC, and OAuth endpoints of our own issuer."""
