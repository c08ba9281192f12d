"""Data: readers of image folders, COCO, VOC and instance maps; synthetic domains; stream files; checks.

A reader is a lazy sequence of `PromptSample`: `reader[i]` decodes one. docs/data.md has the layouts and every
option.
"""

from everseg.data.check import Finding, Report, SplitSummary, check
from everseg.data.coco import CocoReader
from everseg.data.folder import FolderReader
from everseg.data.images import read_image
from everseg.data.instances import InstancesReader
from everseg.data.masks import MaskRule, mask_rule, read_mask
from everseg.data.points import read_points, write_points
from everseg.data.prompts import PromptRule, StoredClicks, draw_clicks, tight_box
from everseg.data.readers import READERS
from everseg.data.samples import Samples
from everseg.data.scenes import SCENES
from everseg.data.sheet import contact_sheet
from everseg.data.stream import Stream
from everseg.data.synthetic import SyntheticDomain, write_synthetic, write_synthetic_stream
from everseg.data.voc import VocReader

__all__ = [
    "READERS",
    "SCENES",
    "CocoReader",
    "Finding",
    "FolderReader",
    "InstancesReader",
    "MaskRule",
    "PromptRule",
    "Report",
    "Samples",
    "SplitSummary",
    "StoredClicks",
    "Stream",
    "SyntheticDomain",
    "VocReader",
    "check",
    "contact_sheet",
    "draw_clicks",
    "mask_rule",
    "read_image",
    "read_mask",
    "read_points",
    "tight_box",
    "write_points",
    "write_synthetic",
    "write_synthetic_stream",
]
