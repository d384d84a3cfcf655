"""The commands: `python -m experiments.<name>` runs `mnet_jax.commands.<name>`.

Only a clone has this package. `mnet <name>` is the same command wherever `mnet_jax` is installed.
"""
