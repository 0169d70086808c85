"""python -m audioadv: the commands, for launchers that take a module."""

from audioadv.cli import main

main(prog_name="audioadv")
