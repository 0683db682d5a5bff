"""The network in training: unrolled over clips, and prompted like a user would."""
