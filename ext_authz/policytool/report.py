"""What policy tests came to: lines for people, JUnit XML for CI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from ext_authz.policytool.explain_text import lines as account_lines
from ext_authz.policytool.explanation import explained
from ext_authz.policytool.runner import Failure, Outcome


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Each failure with what was expected and seen, and the account of its request; then the sum."""
    for outcome in outcomes:
        if not outcome.passed:
            yield f"FAIL {outcome.name}"
            yield f"     {outcome.place}"
            yield from (f"     {line}".rstrip() for line in _causes(outcome))
            yield ""
    failed = sum(not outcome.passed for outcome in outcomes)
    took = sum(outcome.took for outcome in outcomes)
    yield f"{len(outcomes) - failed} passed, {failed} failed in {took:.2f} s"


def _causes(outcome: Outcome) -> Iterator[str]:
    if outcome.failure is None:
        yield outcome.error
        return
    yield from _differences(outcome.failure)
    yield ""
    yield from account_lines(explained(outcome.failure.asked))


def _differences(failure: Failure) -> Iterator[str]:
    if failure.step:
        yield f"at step {failure.step} of then:"
    width = max(len(found.what) for found in failure.differences)
    for found in failure.differences:
        yield f"{found.what:{width}}  expected  {found.expected}"
        yield f"{'':{width}}  seen      {found.seen}"


def write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One suite per file of tests, as Jenkins, GitLab and GitHub read it."""
    root = ET.Element("testsuites", _sums(outcomes))
    for name, found in groupby(outcomes, key=lambda outcome: outcome.suite):
        suite = list(found)
        element = ET.SubElement(root, "testsuite", {"name": name, **_sums(suite)})
        for outcome in suite:
            element.append(_testcase(outcome))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _sums(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(outcome.failure is not None for outcome in outcomes)),
        "errors": str(sum(outcome.error != "" for outcome in outcomes)),
        "time": f"{sum(outcome.took for outcome in outcomes):.3f}",
    }


def _testcase(outcome: Outcome) -> ET.Element:
    place = {"file": str(outcome.place.file), "line": str(outcome.place.line)}
    element = ET.Element(
        "testcase",
        {"classname": outcome.suite, "name": _fit_for_xml(outcome.name), "time": f"{outcome.took:.3f}", **place},
    )
    if not outcome.passed:
        causes = [_fit_for_xml(cause) for cause in _causes(outcome)]
        kind = "error" if outcome.error else "failure"
        ET.SubElement(element, kind, {"message": " ".join(causes[0].split())}).text = "\n".join(causes)
    return element


def _fit_for_xml(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
