"""Converts another library's weights to a saved model.

The command is `mnet_jax.commands.convert`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("convert")
