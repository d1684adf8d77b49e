"""What an identity provider says of its users besides tokens: who logged out, whose password changed, who is disabled.

Start in `parts.py`. What it sends comes in by `receivers.py` and `polling.py`, is read by `messages.py`, and comes into
force in `obedience.py`.
"""
