"""Measures, side by side with what one would use otherwise. `make bench`, `make bench BENCH=train|compress`."""
