"""Writes a trained network for other programs: StableHLO, LiteRT and ONNX.

The command is `mnet_jax.commands.export`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("export")
