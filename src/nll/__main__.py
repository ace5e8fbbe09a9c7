"""`python -m nll`: the command line."""

from nll.cli import main

main()
