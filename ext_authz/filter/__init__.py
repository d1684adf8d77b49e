"""What stands between Envoy and an MLflow server: which project a call is about, and whether its caller may do that."""
