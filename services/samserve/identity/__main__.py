"""`python -m samserve.identity`."""

from samserve.identity.server import main

main()
