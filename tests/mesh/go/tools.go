//go:build tools

// Package tools pins what `make mesh-tools` builds: go.mod has the versions, go.sum the checksums.
package tools

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "go.etcd.io/etcd/server/v3"
	_ "helm.sh/helm/v3/cmd/helm"
	_ "istio.io/istio/istioctl/cmd/istioctl"
	_ "istio.io/istio/pilot/cmd/pilot-agent"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
	_ "istio.io/istio/pilot/test/xds"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
