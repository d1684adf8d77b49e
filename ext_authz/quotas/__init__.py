"""What an administrator does about the counters of limits: see them, reset them, and give more for a while."""
