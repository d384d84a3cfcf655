"""Draws depthwise kernels and feature maps of a trained network.

See `mnet_jax.commands.features`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("features")
