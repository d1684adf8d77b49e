"""`python -m ext_authz` is `tollgate`."""

from ext_authz.cli import main

main()
