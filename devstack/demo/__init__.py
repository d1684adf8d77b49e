"""`tollgate demo`: a scripted tour through real Envoy to real models; each step shows what is expected and seen."""
