"""Benchmarks of promptable video segmentation: data sets, a simulated user, the systems that are compared, and protocols."""
