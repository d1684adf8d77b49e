"""The policy language: from `policy.yaml` to a compiled `Policy`.

`load.py` loads a policy (`load_policy`, or `examine` for tools); `model.py` and `rights.py` are what others read;
`routes.py` matches a call to a route; `kserve.py` and `names.py` define what calls look like; `cel/` evaluates
expressions; `faults.py` renders what is wrong. `documents/` has the shape of the file.
"""
