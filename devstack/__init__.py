"""Tollgate's development stack, the distribution `tollgate-devstack`: not for production.

`realm` is an identity provider for development, `stack` starts and stops every part on one machine (`tollgate up`), and
`demo` is a tour through a running stack. `commands` holds what is added to the command `tollgate`.
"""
