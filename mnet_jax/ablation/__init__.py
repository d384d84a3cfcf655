"""Ablation studies: trains a grid of arms with several seeds each, stores the trials, reports."""
