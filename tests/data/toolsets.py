"""Data sets as annotation tools and archives write them, painted small."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 40, 48


def box_of(number: int, at: int = 0) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of one of two objects of an image."""
    return 4 + at * 24 + number % 3, 6 + number % 7, 18 + at * 24 + number % 3, 24 + number % 7


def picture(number: int, objects: int = 1) -> NDArray[np.uint8]:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
    for at in range(objects):
        x0, y0, x1, y1 = box_of(number, at)
        pixels[y0:y1, x0:x1, at] += 130
    return pixels


def labels(number: int, values: Sequence[int] = (1,)) -> NDArray[np.uint8]:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for at, value in enumerate(values):
        x0, y0, x1, y1 = box_of(number, at)
        found[y0:y1, x0:x1] = value
    return found


def save(path: Path, pixels: Any, palette: Sequence[int] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(palette))
    image.save(path)


def _corners(number: int, at: int) -> list[list[float]]:
    x0, y0, x1, y1 = box_of(number, at)
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


# ---------------------------------------------------------------- labelme


def labelme_json(path: Path, image: str, number: int, names: Sequence[str], **more: Any) -> None:
    shapes = [
        {
            "label": name,
            "points": _corners(number, at),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for at, name in enumerate(names)
    ]
    tree = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2))


def labelme(root: Path, count: int = 6, first: int = 0, apart: str = "") -> Path:
    """apart: the name of a folder of the JSON files, where they do not lie beside the images."""
    for n in range(first, first + count):
        names = ["polyp", "instrument"][: 1 + n % 2]
        save(root / f"im {n:02d}.jpg", picture(n, len(names)))
        labelme_json(root / apart / f"im {n:02d}.json", f"im {n:02d}.jpg", n, names)
    return root


# ---------------------------------------------------------------- YOLO


def yolo_labels(path: Path, number: int, classes: Sequence[int], box: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for at, name in enumerate(classes):
        points = [
            v / side
            for corner in _corners(number, at)
            for v, side in zip(corner, (WIDTH, HEIGHT), strict=True)
        ]
        if box:
            x0, y0, x1, y1 = points[0], points[1], points[4], points[5]
            points = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
        rows.append(" ".join([str(name), *(f"{v:.6f}" for v in points)]))
    path.write_text("\n".join(rows) + "\n")


def roboflow(root: Path, splits: Sequence[str] = ("train", "valid", "test"), box: bool = False) -> Path:
    for k, split in enumerate(splits):
        for n in range(10 * k, 10 * k + 5):
            save(root / split / "images" / f"im{n}_jpg.rf.0a{n}.jpg", picture(n, 2))
            yolo_labels(root / split / "labels" / f"im{n}_jpg.rf.0a{n}.txt", n, (0, 1), box)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    (root / "README.roboflow.txt").write_text("exported\n")
    return root


def coco8(root: Path) -> Path:
    """As Ultralytics packs its examples: the YAML file is not in the archive."""
    for k, split in enumerate(("train", "val")):
        for n in range(10 * k, 10 * k + 4):
            save(root / "images" / split / f"{n:012d}.jpg", picture(n, 2))
            yolo_labels(root / "labels" / split / f"{n:012d}.txt", n, (0, 2))
    return root


def label_studio(root: Path) -> Path:
    for n in range(6):
        save(root / "images" / f"a{n}.png", picture(n))
        yolo_labels(root / "labels" / f"a{n}.txt", n, (0,))
    (root / "classes.txt").write_text("tumour\n")
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "tumour"}], "info": {}}')
    return root


# ---------------------------------------------------------------- CVAT


def cvat(root: Path, images: bool = True, subsets: Sequence[str] = ("default",)) -> Path:
    colours = {"background": (0, 0, 0), "cat": (250, 50, 83), "dog": (51, 221, 255)}
    lines = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in colours.items())
    root.mkdir(parents=True, exist_ok=True)
    (root / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{lines}")
    for k, subset in enumerate(subsets):
        names = []
        for n in range(10 * k, 10 * k + 5):
            shown = labels(n, (1, 2))
            of_class = np.array(list(colours.values()), np.uint8)[shown]
            of_object = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)[shown]
            names.append(f"frame_{n:06d}")
            save(root / "SegmentationClass" / f"{names[-1]}.png", of_class)
            save(root / "SegmentationObject" / f"{names[-1]}.png", of_object)
            save(root / ("JPEGImages" if images else "../pictures") / f"{names[-1]}.jpg", picture(n, 2))
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{subset}.txt").write_text("\n".join(names) + "\n")
    return root


# ---------------------------------------------------------------- Hugging Face


def hf_rows(numbers: Sequence[int], values: Sequence[int] = (255,)) -> dict[str, list[Any]]:
    return {
        "image": [Image.fromarray(picture(n, len(values))) for n in numbers],
        "label": [Image.fromarray(labels(n, values)) for n in numbers],
        "id": list(numbers),
    }


def hf_saved(root: Path, splits: bool = True, values: Sequence[int] = (255,)) -> Path:
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Image(), "id": datasets.Value("int64")}
    )
    made = {
        split: datasets.Dataset.from_dict(hf_rows(range(10 * k, 10 * k + 5), values), features=kinds)
        for k, split in enumerate(("train", "validation"))
    }
    (datasets.DatasetDict(made) if splits else made["train"]).save_to_disk(root)
    return root


def hf_parquet(root: Path) -> Path:
    """As `huggingface-cli download` leaves a data set."""
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Image(), "id": datasets.Value("int64")}
    )
    for k, split in enumerate(("train", "test")):
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(hf_rows(range(10 * k, 10 * k + 5)), features=kinds).to_parquet(file)
    (root / "README.md").write_text("---\nlicense: mit\n---\n")
    return root


# ---------------------------------------------------------------- volumes


def volume(path: Path, number: int, values: Sequence[int] = (), low: int = -1000, channels: int = 0) -> None:
    """An image volume of 40 x 48 x 4, or with `values` the labels of its objects."""
    import nibabel

    planes = []
    for z in range(4):
        if values:
            planes.append(labels(number, values) if z in (1, 2) else np.zeros((HEIGHT, WIDTH), np.uint8))
        else:
            planes.append((picture(number + 100 * z, 2).max(2).astype(np.int16) * 6 + low).astype(np.int16))
    made = np.stack(planes, -1)
    if channels:
        made = np.stack([made] * channels, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(made, np.diag([0.8, 0.8, 5.0, 1.0])), path)


def decathlon(root: Path, channels: int = 0, count: int = 5) -> Path:
    for n in range(count):
        volume(root / "imagesTr" / f"liver_{n:03d}.nii.gz", n, channels=channels)
        volume(root / "labelsTr" / f"liver_{n:03d}.nii.gz", n, (1, 2))
        (root / "imagesTr" / f"._liver_{n:03d}.nii.gz").write_bytes(b"\0\5\x16\7")
    volume(root / "imagesTs" / "liver_100.nii.gz", 100, channels=channels)
    tree = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "numTraining": count,
        "training": [],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(tree))
    return root


def nnunet(root: Path) -> Path:
    for n in range(4):
        for channel in range(2):
            volume(root / "imagesTr" / f"case_{n:03d}_{channel:04d}.nii.gz", n, low=0)
        volume(root / "labelsTr" / f"case_{n:03d}.nii.gz", n, (1,))
    for n in (8, 9):
        for channel in range(2):
            volume(root / "imagesTs" / f"case_{n:03d}_{channel:04d}.nii.gz", n, low=0)
        volume(root / "labelsTs" / f"case_{n:03d}.nii.gz", n, (1,))
    tree = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "prostate": 1}}
    (root / "dataset.json").write_text(json.dumps(tree))
    return root


def kits(root: Path) -> Path:
    for n in range(4):
        volume(root / f"case_{n:05d}" / "imaging.nii.gz", n)
        volume(root / f"case_{n:05d}" / "segmentation.nii.gz", n, (1, 2))
    return root


def brats(root: Path) -> Path:
    for n in range(4):
        home = root / f"BraTS20_Training_{n:03d}"
        for kind in ("flair", "t1", "t1ce", "t2"):
            volume(home / f"{home.name}_{kind}.nii.gz", n, low=0)
        volume(home / f"{home.name}_seg.nii.gz", n, (1, 2))
    return root


def dicom(root: Path, number: int, name: str, **more: Any) -> None:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.CTImageStorage
    uid = pydicom.uid.generate_uid(entropy_srcs=[str(number), name])
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = uid
    values = picture(number).max(2).astype(np.int16) * 6
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, -1024
    made.PixelData = values.tobytes()
    for key, value in more.items():
        setattr(made, key, value)
    root.mkdir(parents=True, exist_ok=True)
    made.save_as(root / name, enforce_file_format=True)


def dicoms(
    root: Path, scans: str = "dicom", masks: str = "ground_truth", ending: str = ".dcm", first: int = 0
) -> Path:
    for n in range(6):
        name = f"patient{n // 2}_{n % 2:03d}"
        dicom(root / scans, first + n, f"{name}{ending}")
        save(root / masks / f"{name}.png", labels(first + n, (255,)))
    return root


# ---------------------------------------------------------------- TIFF


def bands_of(number: int, count: int = 4) -> NDArray[np.uint16]:
    """(C, H, W) of 12 bits."""
    shown = picture(number).transpose(2, 0, 1).astype(np.uint16) * 16
    return np.concatenate([shown, shown[:1]] * count)[:count]


def geotiff(
    root: Path,
    images: str = "images",
    masks: str = "masks",
    bands: int = 4,
    classes: Sequence[int] = (1,),
) -> Path:
    import rasterio

    for n in range(6):
        place = rasterio.Affine(10, 0, 500000 + 480 * n, 0, -10, 4600000)
        where = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "crs": "EPSG:32633", "transform": place}
        for folder in (images, masks):
            (root / folder).mkdir(parents=True, exist_ok=True)
        values = bands_of(n, bands)
        with rasterio.open(
            root / images / f"tile_{n}.tif", "w", count=bands, dtype="uint16", **where
        ) as file:
            file.write(values)
        with rasterio.open(root / masks / f"tile_{n}.tif", "w", count=1, dtype="uint8", **where) as file:
            file.write(labels(n, classes[n % 2 : n % 2 + 2] if len(classes) > 1 else classes), 1)
    return root


def deep_tiff(root: Path) -> Path:
    """As microscopes write them: 12-bit grey in 16 bits."""
    import tifffile

    for n in range(6):
        (root / "raw").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "raw" / f"cell{n}.tif", bands_of(n, 1)[0])
        save(root / "masks" / f"cell{n}.png", labels(n, (255,)))
    return root


# ---------------------------------------------------------------- classes


def segnet_camvid(root: Path) -> Path:
    for k, split in enumerate(("train", "val", "test")):
        for n in range(10 * k, 10 * k + 5):
            rows, columns = np.mgrid[:HEIGHT, :WIDTH]
            shown = (rows // 14 * 4 + columns // 12).astype(np.uint8)
            save(root / split / f"0001TP_{n:06d}.png", picture(n, 2))
            save(root / f"{split}annot" / f"0001TP_{n:06d}.png", shown)
    return root


def kaggle_camvid(root: Path) -> Path:
    """Maps in colour, and a table of the colours."""
    colours = {"Animal": (64, 128, 64), "Bicyclist": (0, 128, 192), "Car": (64, 0, 128), "Void": (0, 0, 0)}
    table = np.array([(0, 0, 0), *list(colours.values())[:3]], np.uint8)
    for k, split in enumerate(("train", "val", "test")):
        for n in range(10 * k, 10 * k + 5):
            save(root / split / f"Seq05VD_f{n:05d}.png", picture(n, 2))
            save(root / f"{split}_labels" / f"Seq05VD_f{n:05d}_L.png", table[labels(n, (1 + n % 2, 3))])
    rows = "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in colours.items())
    (root / "class_dict.csv").write_text(f"name,r,g,b\n{rows}")
    return root


def roboflow_maps(root: Path) -> Path:
    for k, split in enumerate(("train", "valid", "test")):
        for n in range(10 * k, 10 * k + 4):
            save(root / split / f"a{n}_jpg.rf.{n}.jpg", picture(n, 2))
            save(root / split / f"a{n}_jpg.rf.{n}_mask.png", labels(n, (1, 2)))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, roof\n2, tree\n")
    return root


def cityscapes(root: Path) -> Path:
    for k, (split, city) in enumerate((("train", "aachen"), ("train", "bochum"), ("val", "lindau"))):
        for n in range(3):
            name = f"{city}_{n:06d}_000019"
            number = 10 * k + n
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture(number, 2))
            home = root / "gtFine" / split / city
            save(home / f"{name}_gtFine_labelIds.png", labels(number, (7 + n % 2, 26)))
            save(home / f"{name}_gtFine_instanceIds.png", labels(number, (7, 26)).astype(np.uint16) * 1000)
            save(home / f"{name}_gtFine_color.png", picture(number, 2))
            (home / f"{name}_gtFine_polygons.json").write_text('{"imgHeight": 40, "objects": []}')
    return root


def voc_classes(root: Path) -> Path:
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756
    for n in range(8):
        save(root / "JPEGImages" / f"2007_{n:06d}.jpg", picture(n, 2))
        save(root / "SegmentationClass" / f"2007_{n:06d}.png", labels(n, (1 + n % 2, 3)), palette)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"2007_{n:06d}\n" for n in range(5)))
    (lists / "val.txt").write_text("".join(f"2007_{n:06d}\n" for n in range(5, 8)))
    return root
