"""`python -m fastadv`, and so `torchrun -m fastadv`: the command line."""

from fastadv.cli import app

app(prog_name="fastadv")
