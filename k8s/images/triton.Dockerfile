# Triton on processors with the models of model_servers/, from a checkout:
#   docker build -f k8s/images/triton.Dockerfile -t tollgate-triton --build-arg PYTHON=... .
# For GPUs, and models from S3: nvcr.io/nvidia/tritonserver, and k8s/examples/values-gpu.yaml.
# PYTHON is the base image, python:3.12-slim-bookworm, by its digest: so each build begins with the same.
ARG PYTHON

FROM ${PYTHON} AS build
ARG PYTHON
RUN case "${PYTHON}" in *@sha256:*) ;; *) echo "PYTHON names no digest: write IMAGE@sha256:... (docs/kubernetes.md)" >&2; exit 1 ;; esac
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
RUN python3 -m venv /opt/uv && /opt/uv/bin/python -m pip install --no-cache-dir uv==0.13.8 \
    && /opt/uv/bin/uv pip install --no-deps --target /opt/wheel nvidia-pytriton==0.7.0
WORKDIR /src
COPY model_servers model_servers
RUN for framework in sklearn onnx; do \
      UV_PROJECT_ENVIRONMENT=/opt/models/$framework /opt/uv/bin/uv sync --locked --no-editable --project model_servers --extra $framework \
      && /opt/models/$framework/bin/python -m tollgate_models.build model_servers/repository /opt/triton /opt/wheel/pytriton/tritonserver \
      || exit 1; \
    done

FROM ${PYTHON}
COPY --from=build /opt/wheel /opt/wheel
COPY --from=build /opt/models /opt/models
COPY --from=build /opt/triton /opt/triton
COPY k8s/images/tritonserver /opt/triton/bin/
COPY model_servers/tollgate_models/serve.py model_servers/tollgate_models/stubs.py model_servers/tollgate_models/triton_api.py model_servers/tollgate_models/watchdog.py /opt/triton/bin/tollgate_models/
RUN ln -s /opt/triton/models /models
ENV PATH=/opt/triton/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--load-model=*"]
