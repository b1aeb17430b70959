"""What kinds of tasks share: cutting two texts, probabilities, words left out. No kind is in here."""
