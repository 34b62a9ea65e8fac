"""Laws of the entries of arrays, held on quadrature nodes, and what a traced program does to them."""
