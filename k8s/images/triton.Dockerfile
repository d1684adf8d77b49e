# Triton on processors with the models of model_servers/, from a checkout:
#   docker build -f k8s/images/triton.Dockerfile -t tollgate-triton .
# For GPUs, and models from S3: nvcr.io/nvidia/tritonserver, and k8s/examples/values-gpu.yaml.
# Pin the base image by the digest that your registry has: --build-arg PYTHON=docker.io/library/python@sha256:...
ARG PYTHON=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON} AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/models
RUN python3 -m venv /opt/uv && /opt/uv/bin/python -m pip install --no-cache-dir uv==0.13.8 \
    && /opt/uv/bin/uv pip install --no-deps --target /opt/wheel nvidia-pytriton==0.7.0
WORKDIR /src
COPY model_servers model_servers
RUN /opt/uv/bin/uv sync --locked --no-editable --project model_servers \
    && /opt/models/bin/python -m tollgate_models.build model_servers/repository /opt/triton /opt/wheel/pytriton/tritonserver

FROM ${PYTHON}
COPY --from=build /opt/wheel /opt/wheel
COPY --from=build /opt/models /opt/models
COPY --from=build /opt/triton /opt/triton
COPY k8s/images/tritonserver /opt/triton/bin/tritonserver
RUN ln -s /opt/triton/models /models
ENV PATH=/opt/triton/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
CMD ["tritonserver", "--model-repository=/models"]
