"""Losses of class-incremental segmentation, each a function of logits and label maps.

bce.py         a sigmoid for each class: labels shared between two classes, weighted positives, the auxiliary
softmax.py     cross-entropy and distillation that know the background has shifted: LwF, MiB, by regions
sigmoid.py     distillation class by class: DKD
features.py    distillation of what lies under the classifiers: ILT, PLOP, RCIL
supervised.py  labels alone: cross-entropy, or a sigmoid for each class
pseudo.py      labels that the old model completes: EIR, PLOP

Losses come as maps (B, H, W), unreduced, because a batch may lie in parts and on several machines:
`masked_mean` divides by the pixels of all of it. Nothing here builds a one-hot target.

Shape suffixes: B images, K channels of a model, O channels of the old one (0 and the old classes), L layers
of a soft label, D width of features, H W pixels, h w a feature map.
"""

from everseg.classes.losses.bce import (
    auxiliary_loss,
    masked_mean,
    positives,
    row_mean,
    soft_bce,
    weighted_bce,
)
from everseg.classes.losses.features import (
    channel_distance,
    feature_mse,
    fold_logits,
    local_pod,
    pod_descriptor,
    spatial_distance,
)
from everseg.classes.losses.pseudo import (
    BinnedMedians,
    EntropyMedians,
    completed,
    entropy,
    new_region,
    pseudo_labels,
)
from everseg.classes.losses.sigmoid import decomposed_kd, sigmoid_kd, split_scores
from everseg.classes.losses.softmax import region_kd, softmax_kd, unbiased_ce
from everseg.classes.losses.supervised import Loss, supervised

__all__ = [
    "BinnedMedians",
    "EntropyMedians",
    "Loss",
    "auxiliary_loss",
    "channel_distance",
    "completed",
    "decomposed_kd",
    "entropy",
    "feature_mse",
    "fold_logits",
    "local_pod",
    "masked_mean",
    "new_region",
    "pod_descriptor",
    "positives",
    "pseudo_labels",
    "region_kd",
    "row_mean",
    "sigmoid_kd",
    "soft_bce",
    "softmax_kd",
    "spatial_distance",
    "split_scores",
    "supervised",
    "unbiased_ce",
    "weighted_bce",
]
