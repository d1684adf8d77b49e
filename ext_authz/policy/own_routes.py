"""The routes that Tollgate has without any in the policy: on every host, and in front of all that the policy writes.

What leads to the console is public, because the console itself knows who somebody is: by the cookie of a session, or
by a token that it verifies, which is why the credential travels on. It reaches no model.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ext_authz.policy.model import Failure, Route
from ext_authz.policy.names import CONSOLE, CONSOLE_SERVICES, RESERVED

CONSOLE_ROUTE = "console"
"""The name of its routes, in the ledger and in metrics; no route of a policy with tokens has it."""

_QUOTA = Route(f"{RESERVED}/quota", f"/{RESERVED}/quota", frozenset({"GET", "HEAD"}))
_MODELS = Route(f"{RESERVED}/models", f"/{RESERVED}/models", frozenset({"GET", "HEAD"}))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_RPC = frozenset({"POST"})
_PATHS = (f"/{CONSOLE}", f"/{CONSOLE}/", f"/{CONSOLE}/{{rest=**}}")
_CATALOGUE = (f"/{CONSOLE}/api/stac", f"/{CONSOLE}/api/stac/{{rest=**}}")
_READ = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
"""The console answers preflights of web pages there."""
OF_CONSOLE = frozenset(
    (
        *(Route(CONSOLE_ROUTE, path, _METHODS, public=True, upstream=CONSOLE) for path in _PATHS),
        *(Route(CONSOLE_ROUTE, path, _READ, public=True, upstream=CONSOLE) for path in _CATALOGUE),
        *(
            Route(CONSOLE_ROUTE, f"/{service}/{{method}}", _RPC, grpc=True, public=True, upstream=CONSOLE)
            for service in CONSOLE_SERVICES
        ),
    )
)


def own_routes(failure: Failure, *, console: bool) -> Iterator[Route]:
    """The first two read quotas and models; `failure` is for them. `console`: whether there is one."""
    yield replace(_QUOTA, failure=failure)
    yield replace(_MODELS, failure=failure)
    if console:
        yield from OF_CONSOLE
