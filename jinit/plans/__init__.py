"""How each parameter is used, and the rules that initialize it by that."""
