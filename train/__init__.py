"""Training of SAM-I2V."""
