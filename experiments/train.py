"""Trains one network.

The command is `mnet_jax.commands.train`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("train")
