# The authorizer, the usage worker and the migration, from a checkout:
#   docker build -f k8s/images/tollgate.Dockerfile -t tollgate --build-arg PYTHON=... .
# PYTHON is the base image, python:3.12-slim-bookworm, by its digest: so each build begins with the same.
ARG PYTHON

FROM ${PYTHON} AS build
ARG PYTHON
RUN case "${PYTHON}" in *@sha256:*) ;; *) echo "PYTHON names no digest: write IMAGE@sha256:... (docs/kubernetes.md)" >&2; exit 1 ;; esac
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/tollgate
RUN python3 -m venv /opt/uv && /opt/uv/bin/python -m pip install --no-cache-dir uv==0.13.8
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY devstack/pyproject.toml devstack/
COPY ext_authz ext_authz
COPY tollgate tollgate
RUN /opt/uv/bin/uv sync --locked --no-default-groups --no-editable --package tollgate --extra pdf --extra kafka

FROM ${PYTHON}
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT ["tollgate"]
CMD ["serve"]
