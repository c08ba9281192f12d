"""The helpers of this folder are imported as `tests.golden.formula` and `tests.golden.released`.

The root is on the path for that, and not `tests`, whose folders would answer to names such as `napari`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
