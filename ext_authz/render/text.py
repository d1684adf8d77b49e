"""What is rendered, as text."""

from __future__ import annotations

import json

import yaml

from ext_authz.render.endpoints import Json


def as_json(value: Json) -> str:
    return json.dumps(value, indent=1) + "\n"


def as_yaml(value: Json) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """As people write it: no aliases, and a text of several lines in lines."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Plain.add_representer(str, _Plain.represent_str)
