"""What must hold for whatever is generated: slower than unit tests, and nothing needs to run."""
