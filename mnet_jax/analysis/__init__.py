"""What a network costs and does, from its spec and from its activations."""
