#!/usr/bin/env bash
# Generate Python from protos/ into ext_authz/gen, or into the directory given. Same input, same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-ext_authz/gen}"
protoc=(python -m grpc_tools.protoc --proto_path=protos)

rm -rf "$out"
mkdir -p "$out"
"${protoc[@]}" --python_out="$out" --mypy_out="quiet:$out" \
  tollgate/cel/v1/checked.proto tollgate/envoy/accesslog/v3/access_log.proto tollgate/envoy/v3/external_auth.proto \
  tollgate/revocation/v1/revocation.proto tollgate/tokens/v1/tokens.proto tollgate/triton/v1/model_config.proto
find "$out" -type d -exec touch {}/__init__.py \;
