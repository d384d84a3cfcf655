"""Timing against peers: each contender in a process of its own, all in turn, ratios with spread."""
