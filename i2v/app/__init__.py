"""The page: click, track and correct in a browser (`python -m i2v.app`)."""
