"""What the trainer needs around the network: processes, logs, seeds, signals."""
