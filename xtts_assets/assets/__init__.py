"""The thirteen assets, one module for each group of the graph."""
