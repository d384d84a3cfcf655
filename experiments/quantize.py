"""Quantizes trained networks by one method after the other, and measures each.

The command is `mnet_jax.commands.quantize`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("quantize")
