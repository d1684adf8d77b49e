"""Products that use models through Tollgate's door, as examples that run."""
