"""What the identity provider says of a caller now: written at sign-in and by the poller, read by every worker."""
