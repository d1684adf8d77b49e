"""What stands in front of the authorizer, written from the policy: Envoy's configuration, and the objects of Istio."""
