#!/usr/bin/env bash
# protos/ is well formed, breaks no client, and is what ext_authz/gen was generated from.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

buf lint
buf format --diff --exit-code

# main's last commit is what others may have built on. A clone without main, or before protos, has nothing to break.
for base in origin/main main; do
  if git cat-file -e "$base:buf.yaml" 2>/dev/null; then
    mkdir "$scratch/base"
    git archive "$base" buf.yaml protos | tar -x -C "$scratch/base"
    buf breaking --against "$scratch/base"
    break
  fi
done

protos/generate.sh "$scratch/gen"
diff --recursive --exclude=__pycache__ ext_authz/gen "$scratch/gen" ||
  { echo "ext_authz/gen is not what protos/ generates: run make gen" >&2; exit 1; }
