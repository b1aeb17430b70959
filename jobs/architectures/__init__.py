"""What a model's layers are called, how wide they are, what its config can say: read by training and compression."""
