"""The analyses of LIMe's papers (arXiv 2502.09245, versions 1 and 2): a file for each figure or table."""
