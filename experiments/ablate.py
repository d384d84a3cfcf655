"""Trains all combinations of the given values with several seeds, and compares them.

The command is `mnet_jax.commands.ablate`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("ablate")
