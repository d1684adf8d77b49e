"""From what was rendered to text: same input, same bytes."""

from __future__ import annotations

import json

import yaml

from ext_authz.render.bounds import Json


def as_json(value: Json) -> str:
    return json.dumps(value, indent=1) + "\n"


def as_yaml(value: Json) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: what stands twice is written twice, as in every file that people edit."""

    def ignore_aliases(self, data: object) -> bool:
        return True
