"""The text of a card: what is in a data set, how it was made and how it is read, for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow.compute as pc

from manifests.console import plural
from manifests.manifest_io import SPLITS_FOLDER, read_originals
from manifests.records import WRITTEN
from manifests.sample import flow_method
from manifests.splits.label_split import read_split
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from tgprep.share.facts import Facts, is_web_address
from tgprep.share.readme import Readme
from tgprep.share.text import code_block, markdown
from tgprep.view.contents import Contents, SplitContents

_MAX_CLASSES = 1000  # rows of the table; dataset.json has them all
_MAX_VALUES = 5  # of picture sizes and frame rates
_MAX_CHARACTERS = 200  # of a value in the history of a split
_FRAMES = "every frame as JPEG and, beside it, its temporal gradient (TG)"
_DERIVED = "every frame as JPEG; the temporal gradient (TG) is derived while reading"
_VIDEO = "one short-GOP H.264 video a sample; the temporal gradient (TG) is derived while reading"
_FORMULA = """`TG_k = floor((I_k - I_{k+1} + 255) / 2)` per channel on uint8: TG frame k belongs to frames k and k+1, and 127 is no motion."""
_CHANGED = """**%s videos were dropped or have other labels since they were extracted.** The tables count; the tars still hold what `originals.parquet`
lists, and programs that read the tars alone see it. `tgprep split --materialise` writes tars without it."""
_OURS = """Install tgprep with its extra `train`, then, beside the downloaded folder `DATASET`:

```bash
tgprep info DATASET            # what is in it
tgprep check DATASET --quick   # nothing is missing
tgtrain run DATASET            # train on the newest split, or on --split NAME
```"""
_FRAMES_CODE = """```python
import io

from datasets import load_dataset
from PIL import Image

samples = load_dataset("webdataset", data_files={"train": "DATASET/shard-*.tar"}, split="train", streaming=True)
for sample in samples:
    offsets = sample["rgb.offsets.npy"]  # frame k is bytes offsets[k]:offsets[k+1] of rgb.mjpeg
    first = Image.open(io.BytesIO(sample["rgb.mjpeg"][: offsets[1]]))
    print(sample["json"]["key"], sample["json"]["label"], len(offsets) - 1, first.size)
```"""
_VIDEO_CODE = """```python
import io

import av
from datasets import Video, load_dataset

samples = load_dataset("webdataset", data_files={"train": "DATASET/shard-*.tar"}, split="train", streaming=True)
for sample in samples.cast_column("mp4", Video(decode=False)):  # decode=True gives decoders of torchcodec
    with av.open(io.BytesIO(sample["mp4"]["bytes"])) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    print(sample["json"]["key"], sample["json"]["label"], len(frames), frames[0].shape)
```"""
_WEBDATASET_CODE = """```python
import glob

from webdataset import WebDataset

for sample in WebDataset(sorted(glob.glob("DATASET/shard-*.tar")), shardshuffle=False).decode():
    print(sample["__key__"], sample["json"]["label"], sample["json"]["class_name"])
```"""
_SPLIT_CODE = """A split is a table (`key`, `label`, and whether the video is labelled, unlabelled, validation, test):

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files={"train": "DATASET/%s"}, split="train")
print(rows.filter(lambda row: row["labelled"])["key"])
```"""


def default_description(manifest: Manifest) -> str:
    """One sentence on any data set."""
    header = manifest.header
    what = "H.264 video" if _is_video(header.settings) else "JPEG frames"
    counts = f"{plural(header.num_written, 'action video')} of {plural(len(header.classes), 'class', 'classes')}"
    return f"{counts} as WebDataset shards of {what} with temporal gradients, a Parquet manifest and label splits (tgprep)."


DEFAULT_DESCRIPTION = re.compile(r"[0-9,]+ action videos of [0-9,]+ classes as WebDataset shards of .* \(tgprep\)\.")


def page(contents: Contents, manifest: Manifest, facts: Facts, readme: Readme) -> str:
    """The card in Markdown, without front matter and marks. readme: for the licence that its front matter may state."""
    parts = [
        f"# {markdown(facts.name)}",
        *(markdown(" ".join(lines.split())) for lines in facts.description.split("\n\n")),
    ]
    if facts.homepage:
        parts.append(f"Homepage: <{facts.homepage}>")
    if facts.creator:
        parts.append(
            f"Published by {markdown(facts.creator)}" + f" on {facts.date_published}." * bool(facts.date_published)
        )
    parts += _contents(contents, manifest)
    parts += _classes(manifest)
    parts += _splits(contents.splits, manifest)
    parts += _reading(contents)
    parts += ["## Licence", *_licence(facts, readme)]
    if facts.citation:
        parts += ["## Citation", code_block(facts.citation)]
    return "\n\n".join(parts)


def _contents(c: Contents, manifest: Manifest) -> Iterator[str]:
    how = _VIDEO if _is_video(c.settings) else _FRAMES if c.gradient.stored else _DERIVED
    yield f"## What is in it\n\nVideos as WebDataset tars, {how}. Written by `tgprep`, format {c.format_version}."
    rows = {
        "videos": f"{c.num_written:,}",
        "files that failed": f"{c.num_failed:,}",
        "files that were skipped": f"{c.num_skipped:,}",
        "names and official lists as of": c.dataset,
        "classes": f"{c.num_classes:,}",
        "classes without videos": f"{c.num_empty_classes:,}",
        "videos without a label": f"{c.num_without_label:,}",
        "groups (actors or scenes)": f"{c.num_groups:,}",
        "segments": f"{c.num_segments:,} of {plural(c.num_cut_files, 'file')}" if c.num_segments else "",
        "frames": f"{c.num_frames:,}; a video {c.frames_per_video.min:,} to {c.frames_per_video.max:,}, "
        f"median {c.frames_per_video.median:,}",
        "size": f"{c.num_bytes / 1e6:,.1f} MB in {plural(c.num_shards, 'shard')}",
        "pictures": _most((f"{width}x{height}", count) for (width, height), count in c.picture_sizes.items()),
        "frames a second": _most((f"{fps:.5g}" if fps else "unknown", count) for fps, count in c.fps.items()),
        "temporal gradient": f"{'stored' if c.gradient.stored else 'derived while reading'}, of {c.gradient.source} frames in "
        f"{c.gradient.space}",
        "flow": f"stored, {method}" if (method := flow_method(c.settings)) else "",
        "digest": c.digest,
    }
    yield _table(("", ""), rows.items())
    if count := len(read_originals(manifest)):
        yield _CHANGED % f"{count:,}"
    yield f"## Temporal gradient\n\n{_FORMULA}"
    yield "## Settings\n\nOf the extraction, and versions of what decided its bytes:"
    yield _table(
        ("setting", "value"), ((name, str(value)) for name, value in sorted((c.settings | c.versions).items()))
    )


def _classes(manifest: Manifest) -> Iterator[str]:
    table, classes = manifest.videos.arrow, manifest.header.classes
    written = table.filter(pc.equal(table["status"], WRITTEN))
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(written["label"]).to_pylist()}
    shown = classes[:_MAX_CLASSES]
    yield "## Classes"
    yield _table(
        ("label", "class", "videos"),
        [(str(label), name, f"{counts.get(label, 0):,}") for label, name in enumerate(shown)],
    )
    if len(shown) < len(classes):
        yield f"and {len(classes) - len(shown):,} more: `classes` in `dataset.json` lists all."


def _splits(splits: Sequence[SplitContents], manifest: Manifest) -> Iterator[str]:
    yield "## Splits"
    if not splits:
        yield "There is none yet."
        return
    ordered = sorted(splits, key=lambda split: split.name)
    yield f"Files `{SPLITS_FOLDER}/NAME.parquet`; a video may be both labelled and unlabelled, as it trains in both ways."
    yield _table(
        ("name", *PARTS), [(split.name, *(f"{getattr(split, part):,}" for part in PARTS)) for split in ordered]
    )
    yield "How each was made:"
    lines = []
    for split in ordered:
        history = read_split(manifest.root, split.name).provenance
        made = "; ".join(f"{name} {value[:_MAX_CHARACTERS]}" for name, value in sorted(history.items()))
        old = "" if split.current else ", for another state of the data set"
        lines.append(f"- {markdown(split.name)}{old}: {markdown(made)}")
    yield "\n".join(lines)


def _reading(c: Contents) -> Iterator[str]:
    yield f"## How to read it\n\n{_OURS}"
    yield "With Hugging Face `datasets`, as a stream or not:"
    yield _VIDEO_CODE if _is_video(c.settings) else _FRAMES_CODE
    yield f"With `webdataset`:\n\n{_WEBDATASET_CODE}"
    if c.splits:
        yield _SPLIT_CODE % f"{SPLITS_FOLDER}/{sorted(split.name for split in c.splits)[0]}.parquet"
    yield "`croissant.json` describes all files, with their sha256, and the columns of the tables."


def _licence(facts: Facts, readme: Readme) -> Iterator[str]:
    if is_web_address(facts.license):
        yield f"Licence: <{facts.license}>"
    elif facts.license:
        yield f"Licence: {markdown(facts.license)}"
    elif readme.has("license"):
        yield "The metadata of this card state the licence."
    else:
        yield "No licence is stated."
    yield "The videos belong to their owners: frames and gradients made of them stay under the licence of the footage, whoever publishes them."


def _is_video(settings: Mapping[str, object]) -> bool:
    return settings.get("store") == "video"


def _most(counts: Iterable[tuple[str, int]]) -> str:
    """The most frequent values with their number of videos."""
    joined: Counter[str] = Counter()
    for name, count in counts:
        joined[name] += count
    shown = [f"{name} ({count:,})" for name, count in joined.most_common(_MAX_VALUES)]
    return ", ".join(shown + ["others"] * (len(joined) > _MAX_VALUES))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of names, which stand first, and their values; rows whose first value is empty or 0 are left out."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in rows if row[1] not in ("", "0")]
    return "\n".join(lines)
