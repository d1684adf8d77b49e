"""The script that settles, joined from its parts: Redis gets one."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

_PARTS = files("ext_authz.settlement")


def _joined(name: str) -> str:
    text = _PARTS.joinpath(name).read_text()
    return re.sub(r"^-- include (\S+)$", lambda line: _joined(line[1]), text, flags=re.MULTILINE)


SCRIPT = _joined("settle.lua").encode()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
