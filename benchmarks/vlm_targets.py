"""Score the videos of a data set with a CLIP-like model of `transformers` in a local folder: soft targets for `tgprep targets --import`.

    python benchmarks/vlm_targets.py DATASET MODEL_FOLDER --frames 8 --output vlm.parquet

Writes one row a video: key, and the cosine similarity of its frames (mean over frames) with a sentence for each class. Import it with
`--scores logits --temperature T`. Nothing is downloaded. This script was not run with a model where this repository was made.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import atomic_write
from manifests.manifest_io import read_manifest
from manifests.records import WRITTEN, InputError

SENTENCE = "a video of a person doing {}"


def words_of(class_name: str) -> str:
    """`HandstandPushups` and `hand_stand` as words of a sentence."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]+", " ", class_name).lower()


def load(folder: Path, device: str) -> tuple[Any, Any]:
    """Model and processor from a local folder. InputError if one of them cannot be had without a download."""
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no model: expected a folder with config.json, as `save_pretrained` writes it."
        )
    try:
        from transformers import AutoModel, AutoProcessor
    except ImportError:
        raise InputError("This script needs transformers: pip install transformers.") from None
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: the model cannot be loaded ({error}).") from None
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise InputError(
            f"{folder}: {type(model).__name__} gives no features of pictures and texts, as CLIP and SigLIP do."
        )
    return model.to(device).eval(), processor


def score(root: str, folder: Path, num_frames: int, sentence: str, device: str) -> tuple[list[str], np.ndarray]:
    """Keys, and cosine similarities float32[N, K]."""
    import torch
    from torch.nn.functional import normalize

    from tgtrain.data.clip import ClipSettings, plan_eval
    from tgtrain.data.reader import BadSampleError, open_reader

    manifest = read_manifest(root)
    model, processor = load(folder, device)
    status = manifest.videos.column("status")
    keys = sorted(key for key, state in zip(manifest.videos.column("key"), status, strict=True) if state == WRITTEN)
    reader = open_reader(manifest, tuple(keys))
    clip = ClipSettings(clip_frames=1, interval=1, gradient="none", size=224, test_size=224)
    with torch.no_grad():
        texts = processor(text=[sentence.format(words_of(name)) for name in manifest.header.classes],
                          return_tensors="pt", padding=True)  # fmt: skip
        text_KD = normalize(model.get_text_features(**texts.to(device)).float(), dim=1)
        found, rows = [], []
        for number, key in enumerate(keys):
            stored = reader.index[number]
            plans = plan_eval(stored.num_frames, stored.height, stored.width, clip, num_frames, 1)
            try:
                clips = reader.read_views(number, plans, rgb=True, tg=False)
            except BadSampleError as error:
                print(f"left out, damaged: {error}", file=sys.stderr)
                continue
            pictures = processor(images=[each.rgb[0] for each in clips], return_tensors="pt").to(device)
            image_TD = normalize(model.get_image_features(**pictures).float(), dim=1)
            found.append(key)
            rows.append((image_TD @ text_KD.T).mean(dim=0).cpu().numpy())
    return found, np.stack(rows)


def main() -> None:
    """Parse, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("model", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("--frames", type=int, default=8, help="frames of each video")
    parser.add_argument("--sentence", default=SENTENCE, help="with {} in place of the class")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        keys, similarities = score(given.dataset, given.model, given.frames, given.sentence, given.device)
    except InputError as error:
        sys.exit(f"Error: {error}")
    table = pa.table({"key": keys, "logits": pa.array(list(similarities), pa.list_(pa.float32()))})
    with atomic_write(given.output) as file:
        pq.write_table(table, file)
    print(f"{len(keys)} videos: {given.output}")


if __name__ == "__main__":
    main()
