"""The commands in a clone: `python -m experiments.<name>` runs `mnet_jax.commands.<name>`.

This package is not installed. Where `mnet_jax` is installed, `mnet <name>` is the same command.
"""
