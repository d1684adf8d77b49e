"""Istio's objects. `objects.objects` writes all of them; `mesh.Mesh` has the names that the policy does not have."""
