"""From the Authorization header to a verified caller.

For others: `authenticator.TokenAuthenticator`, `identity.Identity`, `fetch.HttpFetch`, and for tools that have claims
instead of tokens `claims.identify`.
"""
