"""Analyses of a network: its cost from its spec, its behaviour from its activations."""
