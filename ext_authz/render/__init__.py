"""What stands in front of the authorizer, rendered from the policy: Envoy's configuration, and the objects of Istio.

For others: `envoy.bootstrap` and `istio.objects`, with what they take (`endpoints`, `mesh`), and `commands.render`.
"""
