"""The sentiment application: a page that says how a text sounds, and asks whether that was right.

Front end and backend are this process, the model is behind the door: the backend calls it with the token of the person
who is signed in, so permission, quota, experiment and ledger are that person's.
"""
