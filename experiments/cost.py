"""Prints the parameters, multiply-adds and bytes of networks, layer by layer.

The command is `mnet_jax.commands.cost`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("cost")
