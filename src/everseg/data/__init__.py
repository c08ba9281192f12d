"""Data: readers of folders and of files of other tools; synthetic domains; stream files; checks.

A reader is a lazy sequence of `PromptSample` or `SemanticSample`: `reader[i]` decodes one. docs/data.md has
the layouts and every option.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everseg.data.checks import Report, SplitSummary, check
    from everseg.data.classes.crop import CentreCropped, centre_crop
    from everseg.data.classes.legend import Legend
    from everseg.data.classes.maps import CLASS_READERS, ClassMaps, ade20k_maps, folder_maps, voc_maps
    from everseg.data.classes.stages import ClassSamples
    from everseg.data.classes.steps import ClassSteps, LabelTable
    from everseg.data.described import Described
    from everseg.data.domains.coco import CocoReader
    from everseg.data.domains.cvat import CvatReader
    from everseg.data.domains.dicom import DicomReader
    from everseg.data.domains.folder import FolderReader
    from everseg.data.domains.geotiff import GeotiffReader
    from everseg.data.domains.hf import HfReader
    from everseg.data.domains.instances import InstancesReader
    from everseg.data.domains.labelme import LabelmeReader
    from everseg.data.domains.nifti import NiftiReader
    from everseg.data.domains.points import read_points, write_points
    from everseg.data.domains.prompts import PromptRule, StoredClicks
    from everseg.data.domains.voc import VocReader
    from everseg.data.domains.yolo import YoloReader
    from everseg.data.findings import Finding
    from everseg.data.geo import write_mask_like
    from everseg.data.imagefiles import read_image
    from everseg.data.init import Proposal, write_stream_for
    from everseg.data.maskrule import MaskRule, mask_rule
    from everseg.data.meaning import read_mask
    from everseg.data.readers import READERS
    from everseg.data.samples import Samples
    from everseg.data.sheet import contact_sheet
    from everseg.data.stream import Stream
    from everseg.data.synthetic.classes import SyntheticClasses, write_synthetic_classes
    from everseg.data.synthetic.domains import SyntheticDomain, write_synthetic, write_synthetic_stream
    from everseg.data.synthetic.scenes import SCENES
    from everseg.types.pixels import draw_clicks, tight_box

_PLACES = {
    "ade20k_maps": "everseg.data.classes.maps",
    "centre_crop": "everseg.data.classes.crop",
    "CentreCropped": "everseg.data.classes.crop",
    "check": "everseg.data.checks",
    "CLASS_READERS": "everseg.data.classes.maps",
    "ClassMaps": "everseg.data.classes.maps",
    "ClassSamples": "everseg.data.classes.stages",
    "ClassSteps": "everseg.data.classes.steps",
    "CocoReader": "everseg.data.domains.coco",
    "contact_sheet": "everseg.data.sheet",
    "CvatReader": "everseg.data.domains.cvat",
    "Described": "everseg.data.described",
    "DicomReader": "everseg.data.domains.dicom",
    "draw_clicks": "everseg.types.pixels",
    "Finding": "everseg.data.checks",
    "folder_maps": "everseg.data.classes.maps",
    "FolderReader": "everseg.data.domains.folder",
    "GeotiffReader": "everseg.data.domains.geotiff",
    "HfReader": "everseg.data.domains.hf",
    "InstancesReader": "everseg.data.domains.instances",
    "LabelmeReader": "everseg.data.domains.labelme",
    "LabelTable": "everseg.data.classes.steps",
    "Legend": "everseg.data.classes.legend",
    "mask_rule": "everseg.data.maskrule",
    "MaskRule": "everseg.data.maskrule",
    "NiftiReader": "everseg.data.domains.nifti",
    "PromptRule": "everseg.data.domains.prompts",
    "Proposal": "everseg.data.init",
    "read_image": "everseg.data.imagefiles",
    "read_mask": "everseg.data.meaning",
    "read_points": "everseg.data.domains.points",
    "READERS": "everseg.data.readers",
    "Report": "everseg.data.checks",
    "Samples": "everseg.data.samples",
    "SCENES": "everseg.data.synthetic.scenes",
    "SplitSummary": "everseg.data.checks",
    "StoredClicks": "everseg.data.domains.prompts",
    "Stream": "everseg.data.stream",
    "SyntheticClasses": "everseg.data.synthetic.classes",
    "SyntheticDomain": "everseg.data.synthetic.domains",
    "tight_box": "everseg.types.pixels",
    "voc_maps": "everseg.data.classes.maps",
    "VocReader": "everseg.data.domains.voc",
    "write_mask_like": "everseg.data.geo",
    "write_points": "everseg.data.domains.points",
    "write_stream_for": "everseg.data.init",
    "write_synthetic": "everseg.data.synthetic.domains",
    "write_synthetic_classes": "everseg.data.synthetic.classes",
    "write_synthetic_stream": "everseg.data.synthetic.domains",
    "YoloReader": "everseg.data.domains.yolo",
}
"""The module of each name; it is imported on first use."""

__all__ = [
    "CLASS_READERS",
    "READERS",
    "SCENES",
    "CentreCropped",
    "ClassMaps",
    "ClassSamples",
    "ClassSteps",
    "CocoReader",
    "CvatReader",
    "Described",
    "DicomReader",
    "Finding",
    "FolderReader",
    "GeotiffReader",
    "HfReader",
    "InstancesReader",
    "LabelTable",
    "LabelmeReader",
    "Legend",
    "MaskRule",
    "NiftiReader",
    "PromptRule",
    "Proposal",
    "Report",
    "Samples",
    "SplitSummary",
    "StoredClicks",
    "Stream",
    "SyntheticClasses",
    "SyntheticDomain",
    "VocReader",
    "YoloReader",
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
    "write_mask_like",
    "write_points",
    "write_stream_for",
    "write_synthetic",
    "write_synthetic_classes",
    "write_synthetic_stream",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'everseg.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
