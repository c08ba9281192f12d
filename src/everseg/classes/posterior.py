"""Which class an object is of, by the features of the backbone that the run started from.

The classifiers of two steps are never trained against each other on images of both, so what the second step
brings is often taken for what the first one brought. A backbone that is never trained, with the weights that
the run starts from or another with ImageNet weights, has no part in that: what is collected of a class on its
features in one step is as good in all later ones.

    image --+--> segmenter ----------------------> logits z --+
            |                                                 +--> corrected logits z'
            +--> untrained backbone --> log p of each class --+

    t_k  = z_k + weight * log p_k        k: classes, without the background
    z'_i = (max_k z_k + z_i) / 2         i = argmax_k t_k; other classes as far below as t_k is

So both decide which class an object is of, and where they disagree fewer pixels count as objects. Where
there are several experts, each with classes of its own, the maximum is over the classes of i's expert: what
another one sees in images of a kind that it never saw means nothing.

p_k is the density of a Gaussian; all classes have one covariance (linear discriminant analysis). The features
of a place are averaged over a square around it. Each image counts once in each of its classes. The covariance
is shrunk by OAS, with the number of images as that of samples, since places of one image are not independent.
Means and scatter are sums over images, so those of all steps are what they would be had all classes been
learned at once.

Source: ours. That a posterior of the image corrects the logits of separately trained steps is the idea of Yu
et al., "IPSeg: Image Posterior Mitigates Semantic Drift in Class-Incremental Segmentation" (2025), which
trains a network for it on stored images. OAS: Chen et al., "Shrinkage Algorithms for MMSE Covariance
Estimation", IEEE TSP 2010.

Shape suffixes: B images, K classes without the background, D width of the features, h w their map, H W
pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from everseg.distributed import add_up, shard
from everseg.models.semantic.backbones import Backbone
from everseg.models.semantic.segmenter import Output
from everseg.progress import bar
from everseg.types import SemanticSample, State

FAR = 100.0
"""Squared Mahalanobis distance from which classes are foreign to each other. With 60 images each, animals of
PASCAL VOC are 24 to 45 apart by MobileNetV2's features, and 30 to 56 by EfficientNet-Lite1's; polyps and skin
lesions 187 and 306, polyps and cracks 504 and 807."""
BY_CHANCE = 3.0
"""With M and N images of two classes the distance is larger, by up to so many times the features' width times
1/M + 1/N. The same animals are up to 170 apart with 10 images each, and up to 290 with 5."""


class Gaussians:
    """What is kept of the features of K classes, on the CPU in float32, which is what a file has of it.

    images (K,): images that show a class. mean (K, D): of the class's places; each image counts once.
    scatter (D, D): squares about the means, added up over classes and images.
    """

    def __init__(self, width: int) -> None:
        self.images = torch.zeros(0)
        self.mean = torch.zeros(0, width)
        self.scatter = torch.zeros(width, width)

    def append(self, images_K: Tensor, sum_KD: Tensor, square_DD: Tensor) -> None:
        """Take in further classes: number of images, sums of the images' means, and the images' mean
        squares x x^T added up over images and classes. All in float64."""
        mean = sum_KD / images_K.clamp(min=1)[:, None]
        scatter = square_DD - torch.einsum("k,kd,ke->de", images_K, mean, mean)
        self.images = torch.cat([self.images, images_K.float()])
        self.mean = torch.cat([self.mean, mean.float()])
        self.scatter = (self.scatter.double() + scatter).float()

    def covariance(self) -> Tensor:
        """(D, D) float64, shrunk towards a multiple of the identity (OAS, eq. 23)."""
        n, d = float(self.images.sum().clamp(min=1)), len(self.scatter)
        found = self.scatter.double() / n
        trace, squares = float(found.trace()), float(found.square().sum())
        spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
        share = 1.0 if spread <= 0 else min(1.0, ((1 - 2 / d) * squares + trace**2) / spread)
        centre = torch.eye(d, dtype=found.dtype) * max(trace / d, torch.finfo(torch.float32).tiny)
        return (1 - share) * found + share * centre

    def discriminants(self) -> tuple[Tensor, Tensor]:
        """Directions (K, D) and offsets (K,): log p_k of features f is direction_k f + offset_k, but for what
        all classes share. A class without an image has the mean of the others' log p, so that it is never
        the likeliest."""
        mean = self.mean.double()
        direction = torch.linalg.solve(self.covariance(), mean.T).T
        offset = -(direction * mean).sum(1) / 2
        shown = self.images > 0
        if bool(
            shown.any()
        ):  # Less their mean, so that float32 is not spent on what is alike in all classes.
            direction, offset = direction - direction[shown].mean(0), offset - offset[shown].mean()
            direction[~shown], offset[~shown] = 0.0, 0.0
        return direction, offset

    def nearest(self, new: int) -> int | None:
        """The earlier class (from 0) that one of the last `new` is nearest to, by shares of what is far, of
        those that can be compared; the last one if none can. None if all are far from all: the squared
        distance of their means is more than `FAR`, beyond what few images put between means that are the
        same."""
        old = len(self.images) - new
        both_ON = (self.images[:old, None] > 0) & (self.images[None, old:] > 0)
        if not bool(both_ON.any()):
            return old - 1
        mean = self.mean.double()
        gap_OND = mean[:old, None] - mean[None, old:]
        solved = torch.linalg.solve(self.covariance(), gap_OND.flatten(0, 1).T).T
        far_ON = (gap_OND.flatten(0, 1) * solved).sum(1).unflatten(0, gap_OND.shape[:2])
        share = 1 / self.images.double()
        by_chance_ON = BY_CHANCE * mean.shape[1] * (share[:old, None] + share[None, old:])
        apart_ON = (far_ON / (FAR + by_chance_ON)).masked_fill(~both_ON, torch.inf)
        return None if bool(apart_ON.min() > 1) else int(apart_ON.min(1).values.argmin())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("images", "mean", "scatter")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in ("images", "mean", "scatter"):
            setattr(self, name, state[name].float().cpu())


class Posterior(nn.Module):
    """Corrects a segmenter's logits.

    backbone: whose features are read; copied. pixels_for: the backbone that pixels are normalised for.
    weight: of log p. side: of the square that features are averaged over, in pixels of the image.
    expert: number of the segmenter that learned each class.
    """

    direction: Tensor
    offset: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, pixels_for: Backbone, weight: float, side: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False).eval()
        self.weight = weight
        self.cells = max(1, side // backbone.stride) | 1
        self.known = Gaussians(backbone.channels)
        self.register_buffer("direction", torch.zeros(0, backbone.channels))
        self.register_buffer("offset", torch.zeros(0))
        self.expert: list[int] = []
        theirs, ours = (torch.tensor([b.mean, b.std])[..., None, None] for b in (pixels_for, backbone))
        self.register_buffer("scale", theirs[1] / ours[1])
        self.register_buffer("shift", (theirs[0] - ours[0]) / ours[1])

    def train(self, mode: bool = True) -> Posterior:
        """The backbone never trains."""
        return super().train(False)

    def features(self, pixels_B3HW: Tensor) -> Tensor:
        """Of each place, averaged over the square around it, as far as it lies in the image: (B, D, h, w)."""
        last = self.backbone(pixels_B3HW * self.scale + self.shift).last.float()
        return F.avg_pool2d(last, self.cells, 1, self.cells // 2, count_include_pad=False)

    def forward(self, out: Output, pixels_B3HW: Tensor) -> Output:
        """The segmenter's output for the pixels with corrected logits of the classes."""
        if not len(self.offset):
            return out
        z = out.logits[:, 1:].float()
        log_p = F.conv2d(self.features(pixels_B3HW), self.direction[:, :, None, None], self.offset)
        log_p = F.interpolate(log_p, size=z.shape[-2:], mode="bilinear", align_corners=False)
        t = z + self.weight * log_p
        best, which = t.max(1, keepdim=True)
        expert = torch.tensor(self.expert, device=z.device)
        same = expert[which] == expert[:, None, None]
        highest = z.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
        score = (highest + z.gather(1, which)) / 2
        corrected = (t - best + score).to(out.logits.dtype)
        return out._replace(logits=torch.cat([out.logits[:, :1], corrected], 1))

    @torch.no_grad()
    def collect(
        self, samples: Sequence[SemanticSample], channels: range, pixels: Any, *, name: str, workers: int = 0
    ) -> None:
        """Take in further classes from whole images of their step, which are shared out among the processes.

        channels: the classes' numbers in the label maps. pixels: makes (B, 3, H, W) pixels of images.
        """
        width = len(self.known.scatter)
        where: Any = {"dtype": torch.float64, "device": self.offset.device}
        images = torch.zeros(len(channels), **where)
        total, square = torch.zeros(len(channels), width, **where), torch.zeros(width, width, **where)
        mine = shard(range(len(samples)))
        loader: DataLoader[Any] = DataLoader(
            Subset(samples, mine),  # type: ignore[arg-type]  # any sequence serves
            batch_size=None,
            num_workers=workers,
        )
        with bar(f"{name}: features of the untrained backbone", len(mine)) as advance:
            for sample in loader:
                features_Dhw = self.features(pixels(sample.image[None]))[0]
                for channel in set(sample.labels.unique().tolist()) & set(channels):
                    place = channels.index(channel)
                    mean, second = moments(features_Dhw, sample.labels == channel)
                    images[place] += 1
                    total[place] += mean
                    square += second
                advance("")
        add_up([images, total, square])
        self.known.append(images.cpu(), total.cpu(), square.cpu())
        self.expert += [0] * len(channels)
        self._solve()

    def owned(self, expert: int) -> set[int]:
        """The channels of an expert's classes."""
        return {channel for channel, owner in enumerate(self.expert, 1) if owner == expert}

    def _solve(self) -> None:
        direction, offset = self.known.discriminants()
        self.direction = direction.to(self.direction)
        self.offset = offset.to(self.offset)

    def state(self) -> State:
        return dict(self.known.state_dict()) | {"expert": list(self.expert)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.known.load_state_dict(state)
        self.expert = list(state.get("expert", [0] * len(self.known.images)))  # Older runs have one.
        self._solve()


def moments(features_Dhw: Tensor, mask_HW: Tensor) -> tuple[Tensor, Tensor]:
    """Means of x (D,) and of x x^T (D, D) over the features under a mask, in float64. A place counts by the
    share of it that the mask covers."""
    mask = mask_HW.to(features_Dhw.device, torch.float32)[None, None]
    share_hw = F.adaptive_avg_pool2d(mask, (features_Dhw.shape[1], features_Dhw.shape[2]))[0, 0].double()
    seen = share_hw > 0
    weight_N = share_hw[seen] / share_hw.sum()
    rows_ND = features_Dhw[:, seen].T.double()
    return weight_N @ rows_ND, (rows_ND * weight_N[:, None]).T @ rows_ND
