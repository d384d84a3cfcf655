"""Draws the depthwise kernels of a trained network, and the feature maps of an image in it.

The command is `mnet_jax.commands.features`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("features")
