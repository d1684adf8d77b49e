"""The objects that put the authorizer in front of Triton in an Istio mesh, each a file."""
