"""Judging candidates: quality with its interval, timing, calibration, slices, the front and what is required of it."""
