"""How signals travel through a network, forward and backward."""
