"""Machines: which there are, what they cost, what would run where, and the files of every cloud."""
