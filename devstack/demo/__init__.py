"""`tollgate demo`: a scripted tour through real Envoy to real models; each step tells what is expected and seen."""
