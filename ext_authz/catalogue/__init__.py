"""What there is, for whoever looks for it: entries, filtered by the function that decides calls; searched; as STAC."""
