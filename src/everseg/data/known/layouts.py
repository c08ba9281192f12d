"""All layouts that have readers of their own, in the order in which they are looked for."""

from __future__ import annotations

from everseg.data.known.cityscapes import cityscapes_places
from everseg.data.known.coco import coco_places
from everseg.data.known.cvat import cvat_places
from everseg.data.known.dicom import dicom_places
from everseg.data.known.hf import hf_places
from everseg.data.known.labelme import labelme_places
from everseg.data.known.nifti import nifti_places
from everseg.data.known.site import Site, StageProposal, stages_of
from everseg.data.known.voc import voc_stages
from everseg.data.known.yolo import yolo_places


def known_stages(site: Site) -> list[StageProposal]:
    """The stages in layouts that have readers of their own; the groups that they take leave `site`."""
    stages = []
    for places in (hf_places, yolo_places, cvat_places, cityscapes_places):
        stages += stages_of(list(places(site)), site.remarks)
    stages += voc_stages(site)
    for places in (coco_places, labelme_places, nifti_places, dicom_places):
        stages += stages_of(list(places(site)), site.remarks)
    return stages
