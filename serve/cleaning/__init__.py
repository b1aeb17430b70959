"""What is done to a text before a model sees it."""
