"""Ablations: a grid of arms, several seeds each, kept in a store and told as a report."""
