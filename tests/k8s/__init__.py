"""What k8s/ and istio/ hold, read by helm, kubectl and a real API server. Needs the programs of `make mesh-tools`."""
