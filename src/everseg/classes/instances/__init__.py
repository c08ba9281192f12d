"""Instances cut out of what was learned, kept in a small pool, and pasted into what comes.

harvest.py   find instances in a label map and cut them out
pool.py      a pool with a budget of instances and of bytes, filled evenly over the classes
store.py     the pool as a folder of pictures with a manifest
sheet.py     the pool as one picture
place.py     where a paste goes, and how large
paste.py     pasting into an image and its labels
lacking.py   classes of which nothing is kept
alone.py     an instance alone, in a crop of its image
rows.py      training rows of all that
"""

from everseg.classes.instances.alone import instance_crop
from everseg.classes.instances.harvest import Found, HarvestConfig, cut, find_all, find_instances
from everseg.classes.instances.lacking import remark_lacking
from everseg.classes.instances.paste import (
    PasteConfig,
    Pasted,
    choose_classes,
    paste,
    seen_classes,
)
from everseg.classes.instances.pool import Budget, Instance, InstancePool, balanced
from everseg.classes.instances.rows import InstanceRows, Paster, completed_in_crops
from everseg.classes.instances.sheet import contact_sheet
from everseg.classes.instances.store import load_pool, save_pool

__all__ = [
    "Budget",
    "Found",
    "HarvestConfig",
    "Instance",
    "InstancePool",
    "InstanceRows",
    "PasteConfig",
    "Pasted",
    "Paster",
    "balanced",
    "choose_classes",
    "completed_in_crops",
    "contact_sheet",
    "cut",
    "find_all",
    "find_instances",
    "instance_crop",
    "load_pool",
    "paste",
    "remark_lacking",
    "save_pool",
    "seen_classes",
]
