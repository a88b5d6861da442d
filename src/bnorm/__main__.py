"""`python -m bnorm` is the command `bnorm`."""

from bnorm.cli import main

main(prog_name="bnorm")
