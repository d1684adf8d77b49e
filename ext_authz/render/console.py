"""The way to the console: its paths, and what Envoy does there otherwise than on the way to a model.

The credential is the console's business and passes the check; a body is small; what the console answers is left as it
is. Web pages of other origins may call models, if the policy has `cors`, and never the console.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ext_authz.policy.model import Policy
from ext_authz.policy.names import CONSOLE, CONSOLE_SERVICES
from ext_authz.render import filters
from ext_authz.render.endpoints import CONNECTION_BYTES, Json, Timeouts, duration

PREFIX = f"/{CONSOLE}/"
PATHS = rf"/{CONSOLE}(?:/.*)?"
"""Its pages, its REST interface and its receivers of signals."""
RPCS = rf"/(?:{'|'.join(map(re.escape, CONSOLE_SERVICES))})/[^/]+"
EVERYWHERE = rf"/{CONSOLE}(?:[/?].*)?|/(?:{'|'.join(map(re.escape, CONSOLE_SERVICES))})/.*"
"""All of these, with a query."""
BODY_BYTES = 64 * 1024
"""The largest body. One that is announced to be larger is refused before the check; the console itself counts what is
not announced."""
_BUFFER_BYTES = 4 * CONNECTION_BYTES
"""What Envoy takes of a body that is not announced. With less, one that fills its buffer while the authorizer decides
would be read no further, and answered after a minute."""
IDLE_SECONDS = 4
"""After which Envoy closes a connection to its HTTP server, which itself does after 5: never under a request."""

COOKIES = {"request_headers_to_remove": ["cookie"], "response_headers_to_remove": ["set-cookie"]}
"""For routes to models: the cookies of this host are of console and applications. No model gets or sets one."""


def console_routes(policy: Policy, timeouts: Timeouts) -> Iterator[Json]:
    """None without a console."""
    if policy.tokens is None:
        return
    retries = {"retry_on": "connect-failure", "num_retries": 2}
    how = {"timeout": duration(timeouts.request), "retry_policy": retries}
    of_filters = {"typed_per_filter_config": settings(policy)}
    match: Json = {"safe_regex": {"regex": RPCS}, "grpc": {}}
    yield {"match": match, "route": {"cluster": "console_grpc", **how}, **of_filters}
    yield {"match": {"safe_regex": {"regex": PATHS}}, "route": {"cluster": "console", **how}, **of_filters}


def settings(policy: Policy) -> Json:
    """Of the filters, for its routes."""
    found: Json = {
        filters.BUFFER: {
            "@type": f"{filters.EXTENSIONS}.filters.http.buffer.v3.BufferPerRoute",
            "buffer": {"max_request_bytes": _BUFFER_BYTES},
        },
        **filters.unread(),
    }
    return found | filters.no_cors(policy)
