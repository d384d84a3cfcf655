"""Compares the speed of this library with that of others.

The command is `mnet_jax.commands.benchmark`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("benchmark")
