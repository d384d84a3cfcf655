"""Measures how much of each bottleneck of trained networks survives a non-linearity.

The command is `mnet_jax.commands.bottlenecks`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("bottlenecks")
