"""Calls models behind Tollgate: signs in, renews tokens, retries when it is told to, and says why a call was refused.

`pip install tollgate[client]`. `Client` blocks, `AsyncClient` is for asyncio; both run the same steps (`calls`).

Errors:

    TollgateError
    +-- Refused        answered, and not with what was asked for
    +-- SignInFailed   there is no token
    +-- Unreachable    no answer
"""

from tollgate.client.calls import Access, Answer, Model
from tollgate.client.clients import AsyncClient, Client
from tollgate.client.errors import Refused, SignInFailed, TollgateError, Unreachable
from tollgate.client.sign_in import ClientCredentials, Device, Prompt, SignIn

__all__ = [
    "Access",
    "Answer",
    "AsyncClient",
    "Client",
    "ClientCredentials",
    "Device",
    "Model",
    "Prompt",
    "Refused",
    "SignIn",
    "SignInFailed",
    "TollgateError",
    "Unreachable",
]
