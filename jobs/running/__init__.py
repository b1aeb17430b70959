"""What a pipeline knows before it runs, and the command line that all stages share."""
