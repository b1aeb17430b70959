"""A kind of task that Raystill does not have: spotting the word of a passage that answers a question."""
