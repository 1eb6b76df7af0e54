"""Reads the records of runs and makes tables, figures and the report from them; loads no torch."""
