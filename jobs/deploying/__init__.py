"""A model on Ray Serve: given, kept as it was set by hand, tried as a canary, taken back."""
