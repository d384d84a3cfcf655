"""Measures how much of a manifold survives a non-linearity: V2's Fig. 1.

See `mnet_jax.commands.manifold`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("manifold")
