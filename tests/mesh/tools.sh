#!/usr/bin/env bash
# Builds the Go programs of the mesh proofs into .tools/mesh/: all, or those that are named. What is already built from this go.sum, and its own source, stays.
set -euo pipefail
cd "$(dirname "$0")/go"
declare -A package=(
  [discovery]=./cmd/discovery
  [istioctl]=istio.io/istio/istioctl/cmd/istioctl
  [pilot-agent]=istio.io/istio/pilot/cmd/pilot-agent
  [pilot-discovery]=istio.io/istio/pilot/cmd/pilot-discovery
  [helm]=helm.sh/helm/v3/cmd/helm
  [kubeconform]=github.com/yannh/kubeconform/cmd/kubeconform
  [etcd]=go.etcd.io/etcd/server/v3
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
)
order="discovery istioctl pilot-agent pilot-discovery helm kubeconform etcd kube-apiserver"
command -v go >/dev/null || { echo "the programs of the mesh proofs are built with Go $(sed -n 's/^go //p' go.mod) or newer: install it" >&2; exit 1; }
out=../../../.tools/mesh
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
key=$(cat go.mod go.sum | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/.key" 2>/dev/null)" != "$key" ]; then
  for name in $order; do rm -f "$out/$name"; done
  echo "$key" >"$out/.key"
fi
for name in "$@"; do
  [[ " $order " == *" $name "* ]] || { echo "'$name' is not a program of the mesh proofs: write one of $order" >&2; exit 2; }
done
for name in ${*:-$order}; do
  [ -x "$out/$name" ] && [ "$out/$name" -nt "cmd/$name/main.go" ] && continue  # also without such a source
  nice go build -trimpath -ldflags '-s -w' -o "$out/$name.new" "${package[$name]}"
  mv "$out/$name.new" "$out/$name"
done
