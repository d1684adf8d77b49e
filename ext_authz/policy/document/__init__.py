"""The shape of `policy.yaml`, checked by pydantic: one file per part. `compile.py` makes `model.py` of it.

Every field says what it means: the JSON Schema and the reference are generated from here.
"""
