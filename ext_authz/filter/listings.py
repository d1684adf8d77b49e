"""Searches without ids, answered project by project: MLflow is asked for one readable project at a time.

Filtering the pages of one search would tell, by what is missing from a page and by whether there is a next one, what is
in other projects: a condition of the caller's would be tried on them, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from msgspec.structs import replace

from ext_authz.filter.calls import Call
from ext_authz.filter.endpoints import Listing
from ext_authz.filter.mlflow import Mlflow, project_in
from ext_authz.filter.refusals import Refused, unusable
from ext_authz.filter.rights import EVERY

PAGE = 1000
"""Entries of one page, at most."""
_PROJECTS = 32
"""That MLflow is asked about for one page."""

_TOKEN, _NEXT, _MOST, _FILTER = "page_token", "next_page_token", "max_results", "filter"


async def listed(call: Call, listing: Listing, projects: tuple[str, ...], mlflow: Mlflow) -> dict[str, Any]:
    """One page: entries of the readable projects, in the order of the projects.

    Raises:
        Refused: MLflow's own refusal, such as of a filter it cannot read, or a page token of another search.
    """
    at, token = _place(_field(call, _TOKEN), projects)
    most, found = _page_size(call), list[object]()
    for project in projects[at : at + _PROJECTS]:
        entries, token = await _of_project(call, listing, project, (most - len(found), token), mlflow)
        found += entries
        at += 0 if token else 1
        if token or len(found) >= most:
            break
    return {listing.key: found, **({_NEXT: f"{projects[at]}.{token}"} if at < len(projects) else {})}


async def _of_project(
    call: Call, listing: Listing, project: str, page: tuple[int, str], mlflow: Mlflow
) -> tuple[list[object], str]:
    """Entries, and MLflow's token of the next ones."""
    asked = _asked(call, listing, project, *page)
    status, answer = await mlflow.ask(asked.endpoint.method, asked.target, asked.content)
    if status != HTTPStatus.OK:
        raise _mlflows(status, answer)
    entries = answer.get(listing.key, [])
    return [each for each in entries if _is_of(each, project, listing.separator)], str(answer.get(_NEXT, ""))


def _is_of(entry: object, project: str, separator: str) -> bool:
    found = project_in(str(entry.get("name")), separator) if isinstance(entry, Mapping) else ""
    return found == project if project != EVERY else bool(found)


def _asked(call: Call, listing: Listing, project: str, most: int, token: str) -> Call:
    """The caller's search with one more condition, which stands first: MLflow joins conditions by AND only."""
    own = _field(call, _FILTER)
    of_project = "" if project == EVERY else f"name LIKE '{project}{listing.separator}%'"
    values = {_MOST: most, _TOKEN: token, _FILTER: " AND ".join(each for each in (of_project, own) if each)}
    if call.body is not None:
        return replace(call, body={**call.body, **values})
    kept = tuple((name, value) for name, value in call.query if name not in values)
    return replace(call, query=(*kept, *_texts(values)))


def _texts(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    return ((name, str(value)) for name, value in values.items() if value)


def _place(token: str, projects: tuple[str, ...]) -> tuple[int, str]:
    """Where the next page begins: the number of a project, and MLflow's own token there."""
    if not token:
        return 0, ""
    project, _, inner = token.partition(".")
    if project not in projects:
        raise unusable("this page token is not of this search, or its project is no longer readable: search again")
    return projects.index(project), inner


def _page_size(call: Call) -> int:
    asked = _field(call, _MOST) or str(PAGE)
    if not asked.isdecimal() or not asked.isascii() or len(asked) > 9 or not int(asked):
        raise unusable("max_results is a whole number, 1 at least")
    return min(int(asked), PAGE)


def _field(call: Call, name: str) -> str:
    """Empty: it is not there. A whole number of a body as text."""
    found = (call.body if call.body is not None else dict(call.query)).get(name) or ""
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise unusable(f"{name} is neither text nor a whole number")
    return str(found)


def _mlflows(status: int, answer: Mapping[str, Any]) -> Refused:
    """What MLflow says of a mistake; of its own failures only that there was one."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Refused(HTTPStatus.BAD_GATEWAY, "INTERNAL_ERROR", "MLflow failed")
    code, message = str(answer.get("error_code", "BAD_REQUEST")), str(answer.get("message", ""))
    return Refused(HTTPStatus(status), code, f"MLflow says: {message[:1000]}")
