"""The path at which the published code has the SA-V evaluator. Runs sav_dataset/sav_evaluator.py with the same arguments."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    program = Path(__file__).resolve().parents[1] / "sav_dataset" / "sav_evaluator.py"
    os.execv(sys.executable, [sys.executable, str(program), *sys.argv[1:]])
