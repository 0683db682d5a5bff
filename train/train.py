"""Train SAM-I2V: python train/train.py -c i2v-train [KEY=VALUE ...]. See `train/cli.py`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder of this file comes first, where this file would be taken for the package `train`.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from train.cli import main

    sys.exit(main())
