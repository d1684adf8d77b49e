"""What is known of the owners of tokens."""
