"""Every setting of `tollgate filter`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ext_authz.environment import FromEnvironment


class FilterSettings(FromEnvironment):
    """What stands in front of an MLflow server."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    filter_listen: str = Field(
        pattern=r"^(unix:/.+|[^\s/]+:[0-9]{1,5})$",
        description="where Envoy, and nobody else, reaches the filter, which takes its word for who a caller is: "
        "unix:/path, or host:port where the network sees to that",
    )
    filter_mlflow_url: str = Field(
        pattern=r"^https?://[^/?#@\s]+$",
        description="origin of the MLflow server, which nobody but the filter may reach, such as http://127.0.0.1:5000",
    )
    filter_prefix: str = Field(
        "/mlflow",
        pattern=r"^(/[a-z0-9][a-z0-9-]{0,31}){1,4}$",
        description="beginning of the paths at which the policy serves MLflow",
    )
    filter_artifact_bytes: int = Field(
        1 << 30, ge=1, le=1 << 40, description="bytes of one artifact that is uploaded, at most"
    )
