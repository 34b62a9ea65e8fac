"""Spectra of Jacobians, tangent kernels and weights, and what random-matrix theory says they should be."""
