"""The evaluator of SA-V at the place where the published code has it: sav_dataset/sav_evaluator.py, with the same arguments."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from sav_dataset.sav_evaluator import main

    sys.exit(main())
