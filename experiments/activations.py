"""Counts dead units and dead depthwise kernels of trained networks, layer by layer.

The command is `mnet_jax.commands.activations`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("activations")
