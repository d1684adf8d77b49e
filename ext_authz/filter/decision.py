"""Whether a caller may make a call: every project that it names, by the rights that the roles give."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ext_authz.filter.calls import Call, Mention
from ext_authz.filter.endpoints import Action, Of
from ext_authz.filter.mlflow import Mlflow
from ext_authz.filter.refusals import forbidden, missing, unusable
from ext_authz.filter.rights import Rights
from ext_authz.identity.identity import printable

MENTIONS = 200
"""Things that one call may name; each can be a request to MLflow."""

_BY_NAME = frozenset({Of.EXPERIMENT_NAME, Of.MODEL_NAME})
"""What has its project in it: refusing it says nothing that the caller did not say."""


async def ensure_allowed(call: Call, rights: Rights, mlflow: Mlflow) -> None:
    """Reads may name several projects, all readable; whatever changes something names one.

    Raises:
        Refused
    """
    action = call.endpoint.action
    if action is None:
        return
    mentions = call.mentions()
    if len(mentions) > MENTIONS:
        raise unusable(f"a call names {MENTIONS} experiments, runs and models at most")
    projects = await asyncio.gather(*map(mlflow.project_of, mentions))
    _ensure_known(mentions, projects, rights)
    for project in dict.fromkeys(projects):
        rights.ensure(project, action)
    if action is not Action.READ and len(set(projects)) > 1:
        raise forbidden("this names things of two projects")


def _ensure_known(mentions: Sequence[Mention], projects: Sequence[str], rights: Rights) -> None:
    for mention, project in zip(mentions, projects, strict=True):
        if not project or not (mention.of in _BY_NAME or rights.knows(project)):
            raise missing(mention.of, printable(mention.value))
