"""LIMe (Gerasimov et al., 2025): the paper's settings, and its figures and tables from one command."""
