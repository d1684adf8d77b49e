"""A cluster without kubelet and containers: a real API server, istiod and agents, in namespaces of one machine."""
