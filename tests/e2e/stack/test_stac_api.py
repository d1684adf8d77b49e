"""stac-api-validator, unmodified, of the catalogue behind the real Envoy, for a caller with a token.

It fetches schemas, so it gets them from the files that are here; the way to any other site is closed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from devstack.stack.stack import Stack
from ext_authz.catalogue.stac import CONFORMANCE
from tests.e2e.stack.conftest import token_of
from tests.stac import mirror

PROGRAM = Path(mirror.__file__).parent / "validator/.venv/bin/stac-api-validator"
CLASSES = ("core", "collections", "features", "item-search", "item-search#sort")
"""Of those that it has checks for."""
VALIDATED = {
    "schemas.stacspec.org/v1.1.0/collection-spec/json-schema/collection.json",
    "schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json",
    "stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "stac-extensions.github.io/ml-model/v1.0.0/schema.json",
}
SOURCE_OF_A_MODEL = "doi.org/10.24432/C5DW2B"


@pytest.mark.skipif(not PROGRAM.exists(), reason="needs the environment of `make stac-validator`")
def test_the_validator_of_stac_apis_has_no_complaint(stack: Stack, tmp_path: Path) -> None:
    for each in CLASSES:
        assert any(uri.endswith(f"/{each.replace('features', 'ogcapi-features')}") for uri in CONFORMANCE)
    given = [f"--root-url={stack.addresses.public_url}/tollgate/api/stac", "--collection=ai-model"]
    given += [f"--auth-bearer-token={token_of(stack, 'alice')}", "--validate-pagination"]
    given += [f"--conformance={each}" for each in CLASSES]
    with mirror.running_mirror(tmp_path) as (sites, variables):
        done = subprocess.run(
            [str(PROGRAM), *given],
            check=False,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=200,
        )
    # It ends with 0 after an exception, too.
    assert (done.returncode, "Errors: none" in done.stdout) == (0, True), done.stdout + done.stderr
    assert sites.answered >= VALIDATED
    assert sites.missing <= {SOURCE_OF_A_MODEL}, "a schema that it could not read"
