"""Small realm exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from devstack.realm.export import RealmExport

DEMO = Path(__file__).parents[3] / "devstack/realm/realm-tollgate.json"


def export_of(**fields: object) -> RealmExport:
    return msgspec.convert({"realm": "r", "enabled": True, **fields}, RealmExport)


def written(directory: Path, document: dict[str, Any]) -> Path:
    file = directory / "realm.json"
    file.write_text(json.dumps(document))
    return file
