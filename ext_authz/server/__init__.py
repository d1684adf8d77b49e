"""`tollgate serve`: a supervisor, generations of worker processes, two gRPC servers, the admin listener.

`supervisor.serve` is the entry. `app.py` builds what `worker.Service` asks for, with names of `messages` and `sources`.
Tests and the development stack use names of `rpc` and `ports`.
"""
