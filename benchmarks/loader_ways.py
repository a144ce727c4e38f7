"""The ways of reading training clips that benchmarks/loader.py compares; each holds the same JPEG files.

A way has `build` (writes its store from ours, once) and `open`, which gives an endless iterator of batches of BATCH clips and, where
the way can do it, begins after `skip` clips. A clip is 8 RGB + 8 TG frames, cropped, resized to 224 and perhaps mirrored. All ways but
the reference's give uint8 and use the same decoder, crop and resize, so that they differ in nothing but how they come by the bytes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import math
import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch.utils.data import DataLoader, Dataset

from manifests.gradient import temporal_gradient
from manifests.manifest_io import read_manifest
from manifests.sample import decode_offsets
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.build import step_dataset
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_train
from tgtrain.data.loader import start_worker, step_loader
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.setup import Setup, prepare
from tgtrain.data.stores.local import LocalShards
from tgtrain.randomness import Choice, sample_seed
from tgtrain.ranks.distributed import Ranks

BATCH = 8
SIDE = 224
SETTINGS = ClipSettings()
MEAN, STD = np.array([[123.675, 116.28, 103.53]]), np.array([[58.395, 57.12, 57.375]])
Batches = Iterator[Any]


def plan(num_frames: int, height: int, width: int) -> ClipPlan:
    """A random training clip, drawn as ours are."""
    return plan_train(num_frames, height, width, SETTINGS, np.random.default_rng(np.random.randint(2**31)))[0]


def cut(jpegs: tuple[list[bytes], list[bytes]], drawn: ClipPlan, out: Any, scratch: Any) -> None:
    """Decode and crop the 8 + 8 frames of a clip into out, uint8[2, 8, S, S, 3]: the work that no way can avoid."""
    box = drawn.boxes[0]
    for view, frames in enumerate(jpegs):
        for place, jpeg in enumerate(frames):
            picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=scratch)
            part = picture[box.top : box.top + box.height, box.left : box.left + box.width]
            cv2.resize(part, (SIDE, SIDE), dst=out[view, place], interpolation=cv2.INTER_LINEAR)
            if drawn.flip:
                cv2.flip(out[view, place], 1, dst=out[view, place])


def finished(jpegs: tuple[list[bytes], list[bytes]], drawn: ClipPlan, height: int, width: int) -> torch.Tensor:
    """A clip as uint8[2, 8, S, S, 3]."""
    out = np.empty((2, 8, SIDE, SIDE, 3), np.uint8)
    cut(jpegs, drawn, out, np.empty((height, width, 3), np.uint8))
    return torch.from_numpy(out)


def some(spool: bytes, index: bytes, frames: tuple[int, ...]) -> list[bytes]:
    """These JPEG files of a spool with its index (an npy member)."""
    offsets = decode_offsets(index)
    return [spool[offsets[frame] : offsets[frame + 1]] for frame in frames]


def of_sample(sample: dict[str, Any]) -> torch.Tensor:
    """A clip of a sample that came whole: rgb, rgb_index, tg, tg_index, height, width."""
    num_frames = len(decode_offsets(sample["rgb_index"])) - 1
    drawn = plan(num_frames, int(sample["height"]), int(sample["width"]))
    rgb = some(sample["rgb"], sample["rgb_index"], drawn.frames)
    tg = some(sample["tg"], sample["tg_index"], drawn.tg_frames)
    return finished((rgb, tg), drawn, int(sample["height"]), int(sample["width"]))


def sample_of(reader: ClipReader, number: int) -> dict[str, Any]:
    """A video of our data set with its bytes, for the builders of the other stores."""
    place = reader.index[number]
    m = place.members
    ranges = [
        (m.rgb_index_offset, m.rgb_index_bytes),
        (m.rgb_offset, m.rgb_bytes),
        (m.tg_index_offset, m.tg_index_bytes),
        (m.tg_offset, m.tg_bytes),
    ]
    names = ("rgb_index", "rgb", "tg_index", "tg")
    content: dict[str, Any] = dict(zip(names, reader.shards.read(place.shard, ranges), strict=True))
    return {**content, "height": place.height, "width": place.width}


def whole_reader(data: str) -> ClipReader:
    """A reader of all stored videos."""
    manifest = read_manifest(data)
    keys = [row.key for row in manifest.videos if row.status == "written"]
    return open_reader(manifest, keys)


def loader(dataset: Any, workers: int, shuffle: bool) -> Batches:
    """Batches of a torch DataLoader without end, its workers set up like ours."""
    while True:
        yield from DataLoader(
            dataset, BATCH, shuffle=shuffle or None, num_workers=workers, drop_last=True,
            prefetch_factor=2 if workers else None, worker_init_fn=start_worker if workers else None,
        )  # fmt: skip


def our_setup(data: str, workers_recipe: tuple[str, ...] = ()) -> Setup:
    """The main recipe on this data set."""
    settings = (f"batch.labelled={BATCH // 2}", f"batch.unlabelled={BATCH // 2}", *workers_recipe)
    return prepare(data, read_split(data), read_manifest(data), load_recipe("ucf101-20", settings, num_classes=101))


class Way:
    """The bare limit: decode and crop clips whose bytes are in memory already, in a plain loop, into the same memory."""

    needs: str = ""  # module that must be there
    pairs = False  # a clip is a weak and a strong view
    worker_counts: tuple[int, ...] = (0,)

    def __init__(self, data: str, store: Path, videos: str) -> None:
        self.data, self.store, self.videos = data, store, videos

    def build(self) -> None:
        """Write the store."""

    def open(self, workers: int, skip: int) -> Batches:
        """Batches for ever."""
        setup = our_setup(self.data)
        reader = setup.reader
        clips = []
        for number in range(0, len(reader.index), max(1, len(reader.index) // 96)):
            place = reader.index[number]
            rng = sample_seed(0, 1, 0, place.key, Choice.CLIP)
            (drawn,) = plan_train(place.num_frames, place.height, place.width, setup.clip, rng)
            rgb, tg = reader._jpegs(place, "rgb", list(drawn.frames)), reader._jpegs(place, "tg", list(drawn.tg_frames))
            clips.append(((rgb, tg), drawn, np.empty((place.height, place.width, 3), np.uint8)))
        out = np.empty((BATCH, 2, 8, SIDE, SIDE, 3), np.uint8)
        turn = itertools.cycle(clips)
        while True:
            for into in out:
                jpegs, drawn, scratch = next(turn)
                cut(jpegs, drawn, into, scratch)
            yield out


class Ours(Way):
    """Training steps of the main recipe, 4 labelled + 4 unlabelled clips each, with the plans of the strong views."""

    worker_counts = (0, 1, 2)

    def open(self, workers: int, skip: int) -> Batches:
        """Any step can be asked for."""
        dataset = step_dataset(our_setup(self.data), Ranks(0, 1, torch.device("cpu")))
        return step_loader(dataset, range(skip // BATCH, 10**9), workers, pin=False)


class Mapped(Ours):
    """The same with the shards memory-mapped instead of read by position."""

    worker_counts = (0,)

    def open(self, workers: int, skip: int) -> Batches:
        """Any step can be asked for."""
        setup = our_setup(self.data)
        setup.reader.shards = _MappedShards(str(setup.manifest.root))
        dataset = step_dataset(setup, Ranks(0, 1, torch.device("cpu")))
        return step_loader(dataset, range(skip // BATCH, 10**9), workers, pin=False)


class _MappedShards(LocalShards):
    """Ranges out of memory maps."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.maps: dict[str, mmap.mmap] = {}

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`."""
        if name not in self.maps:
            with (Path(self.root) / name).open("rb") as file:
                self.maps[name] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                self.maps[name].madvise(mmap.MADV_RANDOM)
        return [self.maps[name][offset : offset + size] for offset, size in ranges]


class _Files(Dataset[torch.Tensor]):
    def __init__(self, store: Path, read: Callable[[list[Path], list[Path], int], torch.Tensor]) -> None:
        self.folders: list[tuple[str, int]] = json.loads((store / "folders.json").read_text())
        self.store, self.read = store, read

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, number: int) -> torch.Tensor:
        name, num_frames = self.folders[number]
        folder = self.store / name
        start = np.random.randint(max(1, num_frames - 64))
        frames = [(start + 8 * place) % (num_frames - 1) + 1 for place in range(8)]
        rgb, tg = ([folder / f"{kind}_{frame:05d}.jpg" for frame in frames] for kind in ("img", "tempgrad"))
        return self.read(rgb, tg, num_frames)


class Loose(Way):
    """Loose JPEG files in folders, read at their best: the needed files, decoded and cropped as in every other way."""

    worker_counts = (0, 2)

    def build(self) -> None:
        """A folder a video, img_00001.jpg and tempgrad_00001.jpg."""
        folders = []
        reader = whole_reader(self.data)
        for number in range(len(reader.index)):
            key, sample = reader.index[number].key, sample_of(reader, number)
            folder = self.store / key
            folder.mkdir(parents=True)
            for kind, name in (("rgb", "img"), ("tg", "tempgrad")):
                offsets = decode_offsets(sample[f"{kind}_index"])
                for place in range(len(offsets) - 1):
                    path = folder / f"{name}_{place + 1:05d}.jpg"
                    path.write_bytes(sample[kind][offsets[place] : offsets[place + 1]])
            folders.append((key, len(decode_offsets(sample["rgb_index"])) - 1))
        (self.store / "folders.json").write_text(json.dumps(folders))

    def open(self, workers: int, skip: int) -> Batches:
        """Shuffled by the sampler."""
        return loader(_Files(self.store, _read_plain), workers, shuffle=True)


def _read_plain(rgb: list[Path], tg: list[Path], num_frames: int) -> torch.Tensor:
    jpegs = ([path.read_bytes() for path in rgb], [path.read_bytes() for path in tg])
    height, width, *_ = simplejpeg.decode_jpeg_header(jpegs[0][0])
    return finished(jpegs, plan(num_frames, height, width), height, width)


class Reference(Loose):
    """Labelled clips as the reference reads them: loose files, its decoder's library, crop, resize, flip, normalised float32."""

    worker_counts = (0,)

    def build(self) -> None:
        """Reads the store of the loose files."""

    def open(self, workers: int, skip: int) -> Batches:
        """Shuffled by the sampler."""
        return loader(_Files(self.store, _read_labelled), workers, shuffle=True)


class ReferencePairs(Reference):
    """Weak and strong views as the reference reads them: two operations on every frame of the strong one, on the CPU."""

    pairs = True

    def open(self, workers: int, skip: int) -> Batches:
        """Shuffled by the sampler."""
        return loader(_Files(self.store, _read_pair), workers, shuffle=True)


def _normalised(frames: list[Any]) -> torch.Tensor:
    """float32 [3, 8, S, S], normalised in place with OpenCV, as mmcv does it."""
    clip = np.stack(frames).astype(np.float32)
    for frame in clip:
        cv2.subtract(frame, MEAN, frame)
        cv2.multiply(frame, 1 / STD, frame)
    return torch.from_numpy(np.ascontiguousarray(clip.transpose(3, 0, 1, 2)))


def _views(rgb: list[Path], tg: list[Path], num_frames: int) -> list[list[Any]]:
    """Crop and resize in one step out of the decoded frames, as the reference's lazy pipeline fuses them."""
    first, *others = (
        [simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB") for path in paths] for paths in (rgb, tg)
    )
    drawn = plan(num_frames, *first[0].shape[:2])
    box = drawn.boxes[0]
    views = []
    for frames in (first, *others):
        parts = [frame[box.top : box.top + box.height, box.left : box.left + box.width] for frame in frames]
        resized = [cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for part in parts]
        views.append([cv2.flip(part, 1) for part in resized] if drawn.flip else resized)
    return views


def _read_labelled(rgb: list[Path], tg: list[Path], num_frames: int) -> torch.Tensor:
    return torch.stack([_normalised(view) for view in _views(rgb, tg, num_frames)])


def _read_pair(rgb: list[Path], tg: list[Path], num_frames: int) -> torch.Tensor:
    weak = _views(rgb, tg, num_frames)
    return torch.stack([_normalised(view) for view in (*weak, *map(strong_view(), weak))])


@cache
def strong_view() -> Callable[[list[Any]], list[Any]]:
    """Two of the fifteen operations on all frames of a clip: imgaug itself, as the reference has it; without it a stand-in."""
    return _pillow_view if imgaug_version() == "" else _imgaug_view()


@cache
def imgaug_version() -> str:
    """ "" where it is not installed. It is no longer kept up: numpy 2 lacks a table that it looks into when it is imported."""
    if importlib.util.find_spec("imgaug") is None:
        return ""
    if not hasattr(np, "sctypes"):
        kinds = {"int": "bhilq", "uint": "BHILQ", "float": "efdg", "complex": "FDG"}
        np.sctypes = {name: [np.dtype(code).type for code in codes] for name, codes in kinds.items()}  # type: ignore[attr-defined]
    return importlib.metadata.version("imgaug")


def _imgaug_view() -> Callable[[list[Any]], list[Any]]:
    import imgaug.augmenters as iaa

    def signed(value: float) -> float:
        return float(value if np.random.rand() < 0.5 else -value)  # once, as the reference draws them

    chosen = iaa.SomeOf(
        2,
        [
            iaa.ShearX(signed(15.471)), iaa.ShearY(signed(15.471)), iaa.TranslateX(percent=signed(0.18)),
            iaa.TranslateY(percent=signed(0.18)), iaa.Rotate(signed(27)), iaa.Posterize(nb_bits=3),
            iaa.Solarize(p=1.0, threshold=230), iaa.pillike.EnhanceColor(factor=1.72), iaa.pillike.EnhanceContrast(factor=1.72),
            iaa.pillike.EnhanceBrightness(factor=1.72), iaa.pillike.EnhanceSharpness(factor=1.72), iaa.pillike.Autocontrast(cutoff=0),
            iaa.pillike.Equalize(), iaa.Invert(p=1.0), iaa.Cutout(nb_iterations=1, size=0.18, squared=True),
        ],
    )  # fmt: skip

    def view(frames: list[Any]) -> list[Any]:
        same_for_all = chosen.to_deterministic()
        return [same_for_all(image=frame) for frame in frames]

    return view


def _pillow_view(frames: list[Any]) -> list[Any]:
    for number in np.random.choice(len(OPERATIONS), 2, replace=False):
        frames = [np.asarray(OPERATIONS[number](Image.fromarray(frame))) for frame in frames]
    return frames


def strong_milliseconds() -> float:
    """What the strong view of 8 frames of 224 x 224 takes, mean over 100 clips."""
    frames = list(np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8))
    view = strong_view()
    view(frames)
    began = time.process_time()
    for _ in range(100):
        view(frames)
    return (time.process_time() - began) * 10


def _affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    # The clip is 224 x 224; imgaug moves with OpenCV, so the plain way here does too.
    moved = np.array(matrix, np.float32).reshape(2, 3)
    return lambda image: Image.fromarray(
        cv2.warpAffine(np.asarray(image), moved, (SIDE, SIDE), borderValue=(0, 0, 0))  # type: ignore[call-overload]
    )


def _cutout(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    side = int(0.18 * SIDE)
    top, left = np.random.randint(SIDE - side), np.random.randint(SIDE - side)
    pixels[top : top + side, left : left + side] = 128
    return Image.fromarray(pixels)


_TURN = math.radians(27)
# The fifteen operations of the recipe at its strength, with Pillow, one frame at a time: cheaper than imgaug's, so kinder to the reference.
OPERATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    _affine(1, 0.27, 0, 0, 1, 0),
    _affine(1, 0, 0, 0.27, 1, 0),
    _affine(1, 0, 40, 0, 1, 0),
    _affine(1, 0, 0, 0, 1, 40),
    _affine(math.cos(_TURN), -math.sin(_TURN), 60, math.sin(_TURN), math.cos(_TURN), -40),
    lambda image: ImageOps.posterize(image, 3),
    lambda image: ImageOps.solarize(image, 230),
    lambda image: ImageEnhance.Color(image).enhance(1.72),
    lambda image: ImageEnhance.Contrast(image).enhance(1.72),
    lambda image: ImageEnhance.Brightness(image).enhance(1.72),
    lambda image: image.filter(ImageFilter.SHARPEN),
    ImageOps.autocontrast,
    ImageOps.equalize,
    ImageOps.invert,
    _cutout,
)


class WebDataset(Way):
    """Our own tar shards streamed with webdataset: every sample comes whole, order from a buffer of 32 samples."""

    needs = "webdataset"
    worker_counts = (0, 2)

    def open(self, workers: int, skip: int) -> Batches:
        """No position can be asked for: what was read before is read again and dropped."""
        import webdataset as wds

        urls = sorted(str(path) for path in Path(self.data).glob("shard-*.tar"))
        stream = wds.WebDataset(urls, shardshuffle=len(urls), nodesplitter=wds.shardlists.single_node_only)
        if skip:
            stream = stream.slice(skip % len(whole_reader(self.data).places), 10**9)
        return loader(stream.shuffle(32).map(_of_tar), workers, False)


def _of_tar(sample: dict[str, Any]) -> torch.Tensor:
    facts = json.loads(sample["json"])
    return of_sample(
        {
            "rgb": sample["rgb.mjpeg"], "rgb_index": sample["rgb.offsets.npy"], "tg": sample["tg.mjpeg"],
            "tg_index": sample["tg.offsets.npy"], "height": facts["height"], "width": facts["width"],
        }
    )  # fmt: skip


class Mosaic(Way):
    """MosaicML StreamingDataset, a record a video, local."""

    needs = "streaming"
    worker_counts = (0, 2)

    def build(self) -> None:
        """MDS shards of the default size."""
        from streaming import MDSWriter

        kinds = dict.fromkeys(("rgb", "rgb_index", "tg", "tg_index"), "bytes")
        with MDSWriter(out=str(self.store), columns={**kinds, "height": "int", "width": "int"}) as out:
            reader = whole_reader(self.data)
            for number in range(len(reader.index)):
                out.write(sample_of(reader, number))

    def open(self, workers: int, skip: int) -> Batches:
        """State is the number of samples seen."""
        from streaming import StreamingDataset

        class Clips(StreamingDataset):  # type: ignore[misc]
            def __getitem__(self, at: Any) -> Any:
                return of_sample(super().__getitem__(at))

        dataset = Clips(local=str(self.store), shuffle=True, batch_size=BATCH)
        if skip:
            state = dataset.state_dict(0, from_beginning=True)
            dataset.load_state_dict({**state, "sample_in_epoch": skip % dataset.size})
        return loader(dataset, workers, False)


class Lit(Way):
    """LitData StreamingDataset, a record a video, local."""

    needs = "litdata"
    worker_counts = (0, 2)

    def build(self) -> None:
        """Chunks of 64 MB."""
        from litdata import optimize

        found = [(self.data, number) for number in range(len(whole_reader(self.data).places))]
        optimize(_lit_record, found, str(self.store), chunk_bytes="64MB", num_workers=1)

    def open(self, workers: int, skip: int) -> Batches:
        """Resuming goes through its own loader's state."""
        from litdata import StreamingDataLoader, StreamingDataset

        class Clips(StreamingDataset):  # type: ignore[misc]
            def __getitem__(self, at: Any) -> Any:
                return of_sample(super().__getitem__(at))

        def batches() -> Batches:
            found = StreamingDataLoader(Clips(str(self.store), shuffle=True), batch_size=BATCH, num_workers=workers)
            if skip:
                state = found.state_dict()
                seen = skip % len(found.dataset)
                state["num_samples_yielded"] = seen
                state["dataset"] = found.dataset.state_dict(seen, workers, BATCH)
                found.load_state_dict(state)
            while True:
                yield from found

        return batches()


def _lit_record(found: tuple[str, int]) -> dict[str, Any]:
    return sample_of(whole_reader(found[0]), found[1])


class Decord(Way):
    """The original videos: decord seeks to the clip's frames and their followers, TG is taken from them, no JPEG at all."""

    needs = "decord"
    worker_counts = (0,)

    def open(self, workers: int, skip: int) -> Batches:
        """Shuffled by the sampler."""
        return loader(_Videos(self.videos), workers, shuffle=True)


class _Videos(Dataset[torch.Tensor]):
    def __init__(self, videos: str) -> None:
        self.paths = sorted(str(path) for path in Path(videos).rglob("*") if path.is_file())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        import decord

        video = decord.VideoReader(self.paths[number], num_threads=1)
        height, width, _ = video[0].shape
        drawn = plan(max(2, len(video) - 8), height, width)  # headers count frames that are not there
        wanted = sorted({*drawn.frames, *(frame + 1 for frame in drawn.frames)})
        pictures = dict(zip(wanted, video.get_batch(wanted).asnumpy(), strict=True))
        out = np.empty((2, 8, SIDE, SIDE, 3), np.uint8)
        box = drawn.boxes[0]
        for place, frame in enumerate(drawn.frames):
            for view, picture in enumerate((pictures[frame], temporal_gradient(pictures[frame], pictures[frame + 1]))):
                part = picture[box.top : box.top + box.height, box.left : box.left + box.width]
                cv2.resize(part, (SIDE, SIDE), dst=out[view, place], interpolation=cv2.INTER_LINEAR)
                if drawn.flip:
                    cv2.flip(out[view, place], 1, dst=out[view, place])
        return torch.from_numpy(out)


WAYS: dict[str, tuple[type[Way], str]] = {  # name -> way, its store
    "bare": (Way, ""),
    "ours": (Ours, ""),
    "ours, memory-mapped": (Mapped, ""),
    "loose files, at their best": (Loose, "loose"),
    "reference, labelled": (Reference, "loose"),
    "reference, weak + strong": (ReferencePairs, "loose"),
    "webdataset": (WebDataset, ""),
    "MosaicML MDS": (Mosaic, "mds"),
    "LitData": (Lit, "lit"),
    "decord, original videos": (Decord, ""),
}
