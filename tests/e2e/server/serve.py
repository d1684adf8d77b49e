"""`tollgate serve` without the rest of Tollgate: `python -m tests.e2e.server.serve module:factory`."""

from __future__ import annotations

import asyncio
import importlib
import sys
from functools import partial

from ext_authz.errors import ConfigError
from ext_authz.observability import multiprocess
from ext_authz.settings import Settings, load_settings


def main(factory: str, *background: str) -> int:
    multiprocess.prepare()
    from ext_authz.server.supervisor import serve

    fakes = importlib.import_module("tests.e2e.server.fake_background")
    tasks = {name: getattr(fakes, name) for name in background}
    try:
        return asyncio.run(serve(partial(load_settings, Settings), tasks, factory=factory))
    except ConfigError as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
