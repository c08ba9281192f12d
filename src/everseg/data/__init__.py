"""Data: readers of image folders, COCO, VOC, instance and class maps; made-up domains; stream files; checks.

A reader is a lazy sequence of `PromptSample` or `SemanticSample`: `reader[i]` decodes one. docs/data.md has
the layouts and every option.
"""

from everseg.data.check import Finding, Report, SplitSummary, check
from everseg.data.classes.crop import CentreCropped, centre_crop
from everseg.data.classes.legend import Legend
from everseg.data.classes.maps import CLASS_READERS, ClassMaps, ade20k_maps, folder_maps, voc_maps
from everseg.data.classes.stages import ClassSamples
from everseg.data.classes.steps import ClassSteps, LabelTable
from everseg.data.domains.coco import CocoReader
from everseg.data.domains.folder import FolderReader
from everseg.data.domains.instances import InstancesReader
from everseg.data.domains.points import read_points, write_points
from everseg.data.domains.prompts import PromptRule, StoredClicks
from everseg.data.domains.voc import VocReader
from everseg.data.images import read_image
from everseg.data.masks import MaskRule, mask_rule, read_mask
from everseg.data.readers import READERS
from everseg.data.samples import Samples
from everseg.data.sheet import contact_sheet
from everseg.data.stream import Stream
from everseg.data.synthetic.classes import SyntheticClasses, write_synthetic_classes
from everseg.data.synthetic.domains import SyntheticDomain, write_synthetic, write_synthetic_stream
from everseg.data.synthetic.scenes import SCENES
from everseg.types.pixels import draw_clicks, tight_box

__all__ = [
    "CLASS_READERS",
    "READERS",
    "SCENES",
    "CentreCropped",
    "ClassMaps",
    "ClassSamples",
    "ClassSteps",
    "CocoReader",
    "Finding",
    "FolderReader",
    "InstancesReader",
    "LabelTable",
    "Legend",
    "MaskRule",
    "PromptRule",
    "Report",
    "Samples",
    "SplitSummary",
    "StoredClicks",
    "Stream",
    "SyntheticClasses",
    "SyntheticDomain",
    "VocReader",
    "ade20k_maps",
    "centre_crop",
    "check",
    "contact_sheet",
    "draw_clicks",
    "folder_maps",
    "mask_rule",
    "read_image",
    "read_mask",
    "read_points",
    "tight_box",
    "voc_maps",
    "write_points",
    "write_synthetic",
    "write_synthetic_classes",
    "write_synthetic_stream",
]
