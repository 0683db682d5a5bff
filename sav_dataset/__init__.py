"""The SA-V data set: its evaluator (J&F) and a loader of its videos and masklets."""
