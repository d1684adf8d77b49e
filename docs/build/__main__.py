"""`python -m docs.build` writes the pages that are generated from code; with --check it compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from docs.build import metrics, policy_reference
from ext_authz import settings_list
from ext_authz.ledger import decision_event

DOCS = Path(__file__).parents[1]
PAGES: Mapping[str, Callable[[], str]] = {
    f"{decision_event.TYPE}.schema.json": decision_event.text,
    "metrics.md": metrics.page,
    "policy-reference.md": policy_reference.page,
    "settings.md": settings_list.page,
}


@click.command()
@click.option("--check", is_flag=True, help="Compare with the files, and write nothing.")
def main(*, check: bool) -> None:
    """Write the pages that are generated from code."""
    pages = {DOCS / name: page() for name, page in PAGES.items()}
    if not check:
        for file, text in pages.items():
            file.write_text(text)
    elif differ := [file.name for file, text in pages.items() if not file.exists() or file.read_text() != text]:
        sys.exit(f"{', '.join(differ)} in docs/ differ from the code: run make gen")


if __name__ == "__main__":
    main()
