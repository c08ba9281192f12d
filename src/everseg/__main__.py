"""`python -m everseg` is the console command."""

from everseg.cli import main

main()
