"""Objects of the Gateway API in place of Istio's Gateway and VirtualService; what has no field there stays Istio's."""
