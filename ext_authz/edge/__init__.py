"""Where Envoy's messages begin and end: `authorizer.Authorizer.check` takes and returns bytes.

For others: `Authorizer`, `response.Responder`, `request.TARGET`, `request.media_type`.
"""
