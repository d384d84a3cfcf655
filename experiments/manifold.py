"""Measures how much of a spiral survives a non-linearity in n dimensions: V2's Fig. 1.

The command is `mnet_jax.commands.manifold`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("manifold")
