"""The CustomResourceDefinitions besides those of Istio, each from its project's own Go module in one version.

Keycloak's operator has no Go module; k8s/examples/ does without its kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.mesh.world.network import run

_MODULES = {
    "github.com/argoproj/argo-cd/v3@v3.2.0": "h1:m2eGAV+nXQGgzZbH5SyJD5laaPW27mzWXBrgisUHY/0=",
    "github.com/cert-manager/cert-manager@v1.21.2": "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
    "github.com/cloudnative-pg/cloudnative-pg@v1.27.0": "h1:mp0zlYO4vKAJmQdArWORWKr1lmB4Hj8JeBQGX5RBnpg=",
    "github.com/external-secrets/external-secrets@v1.3.2": "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
    "go.universe.tf/metallb@v0.15.2": "h1:r7KDgJtk3KZe3qb36zRVrVCYHxLR03nPGT+qFXOomJM=",
}
_FILES = {
    "github.com/argoproj/argo-cd/v3": ["manifests/crds/application-crd.yaml"],
    "github.com/cert-manager/cert-manager": [
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_clusterissuers.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ],
    "github.com/cloudnative-pg/cloudnative-pg": ["config/crd/bases/postgresql.cnpg.io_clusters.yaml"],
    "github.com/external-secrets/external-secrets": [
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
        "config/crds/bases/external-secrets.io_secretstores.yaml",
    ],
    "github.com/prometheus-operator/prometheus-operator": [
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
    "go.universe.tf/metallb": [
        "config/crd/bases/metallb.io_ipaddresspools.yaml",
        "config/crd/bases/metallb.io_l2advertisements.yaml",
    ],
}


def definitions() -> Iterator[Path]:
    """Go fetches what is not there yet, and verifies it."""
    for module, checksum in _MODULES.items():
        found = json.loads(run("go", "-C", "/", "mod", "download", "-json", module))
        assert found["Sum"] == checksum, f"{module} has the checksum {found['Sum']}"
        yield from (Path(found["Dir"]) / file for file in _FILES[found["Path"]])
