// Command discovery serves over xDS what istiod makes of a directory of manifests, without a cluster: Istio's own
// translation, with a Kubernetes client that holds what the files say.
//
//	discovery ADDRESS DIRECTORY
//
// DIRECTORY has kubernetes.yaml (Services, EndpointSlices, Pods, objects of the Gateway API), istio.yaml (objects of
// Istio) and mesh.yaml (the mesh configuration).
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/gatewayapi"
	"istio.io/istio/pkg/test"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: discovery ADDRESS DIRECTORY")
		os.Exit(2)
	}
	if err := test.Wrap(func(t test.Failer) { serve(t, os.Args[1], os.Args[2]) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(t test.Failer, address, directory string) {
	config, err := mesh.ApplyMeshConfigDefaults(read(t, directory, "mesh.yaml"))
	if err != nil {
		t.Fatalf("mesh.yaml: %v", err)
	}
	// The definitions in the client have no version, which istiod would ask for.
	clear(gatewayapi.MinimumCRDVersions)
	xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
		ConfigString:           read(t, directory, "istio.yaml"),
		KubernetesObjectString: read(t, directory, "kubernetes.yaml"),
		MeshConfig:             config,
		ListenerBuilder:        func() (net.Listener, error) { return net.Listen("tcp", address) },
	})
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}

func read(t test.Failer, directory, name string) string {
	text, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
