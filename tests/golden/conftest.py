"""The helpers of this folder are imported as `golden.formula` and `golden.released`: tests are no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
