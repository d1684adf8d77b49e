"""`tollgate serve`: a supervisor, generations of worker processes, two gRPC servers, the admin listener.

`supervisor.serve` is the entry. `app.py` builds what `worker.Service` asks for, with `candidate` and `outages` from
here. Tests and the development stack use names of `rpc` and `ports`.
"""
