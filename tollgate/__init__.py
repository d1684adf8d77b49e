"""What programs that call models import: `tollgate.client`. The server is `ext_authz`."""
