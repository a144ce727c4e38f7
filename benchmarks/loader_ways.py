"""The ways of reading training clips that benchmarks/loader.py compares; each holds the same JPEG files.

A way has `build` (writes its store from ours, once) and `open`, which gives an endless iterator of batches of BATCH clips and, where
the way can do it, begins after `skip` clips. A clip is 8 RGB + 8 TG frames, cropped, resized to 224 and perhaps mirrored. All ways but
the reference's give uint8 and use the same decoder, crop and resize, so that they differ in nothing but how they come by the bytes.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import Dataset

from benchmarks.loader_strong_views import strong_view
from benchmarks.loader_way import (
    BATCH,
    MEAN,
    SIDE,
    STD,
    Batches,
    Way,
    complete_reader,
    finished,
    loader,
    of_sample,
    our_setup,
    plan,
    sample_of,
)
from manifests.gradient import temporal_gradient
from manifests.sample import decode_offsets
from tgtrain.data.build import step_dataset
from tgtrain.data.loader import step_loader
from tgtrain.data.stores.local import LocalShards
from tgtrain.ranks.distributed import Ranks


class Ours(Way):
    """Training steps of the main recipe, 4 labelled + 4 unlabelled clips each, with the plans of the strong views."""

    worker_counts = (0, 1, 2)

    def open(self, workers: int, skip: int) -> Batches:
        """Starts at any step."""
        dataset = step_dataset(our_setup(self.data), Ranks(0, 1, torch.device("cpu")))
        return step_loader(dataset, range(skip // BATCH, 10**9), workers, pin=False, num_in_use=1)


class Mapped(Ours):
    """The same with the shards memory-mapped instead of read by position."""

    worker_counts = (0,)

    def open(self, workers: int, skip: int) -> Batches:
        """Starts at any step."""
        setup = our_setup(self.data)
        setup.reader.shards = _MappedShards(str(setup.manifest.root))
        dataset = step_dataset(setup, Ranks(0, 1, torch.device("cpu")))
        return step_loader(dataset, range(skip // BATCH, 10**9), workers, pin=False, num_in_use=1)


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
        frames = [(start + 8 * row) % (num_frames - 1) + 1 for row in range(8)]
        rgb, tg = ([folder / f"{kind}_{frame:05d}.jpg" for frame in frames] for kind in ("img", "tempgrad"))
        return self.read(rgb, tg, num_frames)


class Loose(Way):
    """Loose JPEG files in folders, read at their best: the needed files, decoded and cropped as in every other way."""

    worker_counts = (0, 2)

    def build(self) -> None:
        """A folder a video, img_00001.jpg and tempgrad_00001.jpg."""
        folders = []
        reader = complete_reader(self.data)
        for number in range(len(reader.index)):
            key, sample = reader.index[number].key, sample_of(reader, number)
            folder = self.store / key
            folder.mkdir(parents=True)
            for kind, name in (("rgb", "img"), ("tg", "tempgrad")):
                offsets = decode_offsets(sample[f"{kind}_index"])
                for frame in range(len(offsets) - 1):
                    path = folder / f"{name}_{frame + 1:05d}.jpg"
                    path.write_bytes(sample[kind][offsets[frame] : offsets[frame + 1]])
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


class WebDataset(Way):
    """Our own tar shards streamed with webdataset: every sample comes whole, order from a buffer of 32 samples."""

    needs = "webdataset"
    worker_counts = (0, 2)

    def open(self, workers: int, skip: int) -> Batches:
        """It cannot start at a position: the clips before it are read and dropped."""
        import webdataset as wds

        urls = sorted(str(path) for path in Path(self.data).glob("shard-*.tar"))
        stream = wds.WebDataset(urls, shardshuffle=len(urls), nodesplitter=wds.shardlists.single_node_only)
        if skip:
            stream = stream.slice(skip % len(complete_reader(self.data).index), 10**9)
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
            reader = complete_reader(self.data)
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

        found = [(self.data, number) for number in range(len(complete_reader(self.data).index))]
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
    return sample_of(complete_reader(found[0]), found[1])


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
        needed = sorted({*drawn.frames, *(frame + 1 for frame in drawn.frames)})
        pictures = dict(zip(needed, video.get_batch(needed).asnumpy(), strict=True))
        out = np.empty((2, 8, SIDE, SIDE, 3), np.uint8)
        box = drawn.boxes[0]
        for row, frame in enumerate(drawn.frames):
            for view, picture in enumerate((pictures[frame], temporal_gradient(pictures[frame], pictures[frame + 1]))):
                part = picture[box.top : box.top + box.height, box.left : box.left + box.width]
                cv2.resize(part, (SIDE, SIDE), dst=out[view, row], interpolation=cv2.INTER_LINEAR)
                if drawn.flip:
                    cv2.flip(out[view, row], 1, dst=out[view, row])
        return torch.from_numpy(out)


def jpeg_kb(data: str, num_clips: int) -> float:
    """Mean size in kB of the 16 JPEG files of a clip, over our first clips."""
    sizes: list[int] = []
    dataset = step_dataset(our_setup(data), Ranks(0, 1, torch.device("cpu")))
    shards, read = dataset.reader.shards, dataset.reader.shards.read

    def recorded(name: str, ranges: Any) -> list[bytes]:
        if len(ranges) > 1:  # frames; an index is one range
            sizes.append(sum(size for _, size in ranges))
        return read(name, ranges)

    shards.read = recorded  # type: ignore[method-assign]
    for step in range(num_clips // BATCH):
        dataset[step]
    return sum(sizes) / num_clips / 1000


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
