"""The files of a cluster as text, one module for each kind: what cluster/generate.py writes."""
