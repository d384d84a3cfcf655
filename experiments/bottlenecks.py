"""Measures how much of each bottleneck a non-linearity after it would destroy.

See `mnet_jax.commands.bottlenecks`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("bottlenecks")
