"""Classifies images with a trained model, or measures its accuracy on a data set.

The command is `mnet_jax.commands.evaluate`.
"""

from mnet_jax.commands import command_line

if __name__ == "__main__":
    command_line.run("evaluate")
