"""Rescale the weights of a network by what its signals, or its gradients, ask for."""
