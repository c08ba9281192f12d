"""Data: readers of image folders, COCO, VOC, instance and class maps; made-up domains; stream files; checks.

A reader is a lazy sequence of `PromptSample` or `SemanticSample`: `reader[i]` decodes one. docs/data.md has
the layouts and every option.
"""

from everseg.data.check import Finding, Report, SplitSummary, check
from everseg.data.classmaps import CLASS_READERS, ClassMaps, ade20k_maps, folder_maps, voc_maps
from everseg.data.classstream import ClassSamples
from everseg.data.coco import CocoReader
from everseg.data.colours import class_colour
from everseg.data.crop import CentreCropped, centre_crop
from everseg.data.folder import FolderReader
from everseg.data.images import read_image
from everseg.data.instances import InstancesReader
from everseg.data.legend import Legend
from everseg.data.masks import MaskRule, mask_rule, read_mask
from everseg.data.points import read_points, write_points
from everseg.data.prompts import PromptRule, StoredClicks, draw_clicks, tight_box
from everseg.data.readers import READERS
from everseg.data.samples import Samples
from everseg.data.scenes import SCENES
from everseg.data.sheet import contact_sheet
from everseg.data.steps import ClassSteps, LabelTable
from everseg.data.stream import Stream
from everseg.data.synthetic import SyntheticDomain, write_synthetic, write_synthetic_stream
from everseg.data.syntheticclasses import SyntheticClasses, write_synthetic_classes
from everseg.data.voc import VocReader

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
    "class_colour",
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
