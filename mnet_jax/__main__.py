"""`python -m mnet_jax <command>`: the same as `mnet <command>`."""

from mnet_jax.commands.command_line import main

if __name__ == "__main__":
    main()
