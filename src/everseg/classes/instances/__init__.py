"""Instances cut out of what was learned, kept in a small pool, and pasted into what comes.

harvest.py   find instances in a label map and cut them out
pool.py      a pool with a budget of instances and of bytes, filled evenly over the classes
store.py     the pool as a folder of pictures with a manifest
sheet.py     the pool as one picture
place.py     where a paste goes, and how large
paste.py     pasting into an image and its labels
"""

from everseg.classes.instances.harvest import Found, HarvestConfig, cut, find_instances
from everseg.classes.instances.paste import (
    PasteConfig,
    Pasted,
    choose_classes,
    instance_sample,
    paste,
    seen_classes,
)
from everseg.classes.instances.pool import Instance, InstancePool, balanced
from everseg.classes.instances.sheet import contact_sheet
from everseg.classes.instances.store import load_pool, save_pool

__all__ = [
    "Found",
    "HarvestConfig",
    "Instance",
    "InstancePool",
    "PasteConfig",
    "Pasted",
    "balanced",
    "choose_classes",
    "contact_sheet",
    "cut",
    "find_instances",
    "instance_sample",
    "load_pool",
    "paste",
    "save_pool",
    "seen_classes",
]
