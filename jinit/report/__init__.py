"""Findings, tables, plots and the command line."""
