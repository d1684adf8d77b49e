"""What no signal of Keycloak carries: who was disabled, who lost a role, whose session an administrator ended.

Start in `poller.py`: `event_reader.py` asks what happened (`admin_api.py`) and what it means (`realm_events.py`), and
`state_checker.py` looks up whom that concerns, and everybody else in turn (`polled_owners.py`).
"""
