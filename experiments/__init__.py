"""Claims, each with the program that checks it. Built on the public names of jinit alone.

`python -m experiments list | run NAME | all`; what was found is in docs/experiments.md.
"""
