"""The gradient loop that every training goes through.

loop.py        FitConfig, and `fit`: accumulation, several processes, resuming after an interruption
schedule.py    the learning rate over time
validation.py  how the best epoch is found
"""

from everseg.fit.loop import Examples, FitConfig, Group, Redrawn, fit, steps_of
from everseg.fit.validation import Validates, Validation, check_validation, validation_of

__all__ = [
    "Examples",
    "FitConfig",
    "Group",
    "Redrawn",
    "Validates",
    "Validation",
    "check_validation",
    "fit",
    "steps_of",
    "validation_of",
]
