"""Claims, each with the program that checks it. Built on the public names of jinit alone."""
