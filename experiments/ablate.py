"""Trains every combination of the given axis values and compares the arms.

See `mnet_jax.commands.ablate`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("ablate")
