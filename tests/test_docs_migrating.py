"""docs/migrating.md names only commands, options and recipes that there are, and every script and flag of the reference once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.prep import main as tgprep
from cli.train import main as tgtrain
from tgtrain.config import load_recipe, recipe_names

# Names in the authors' repository and in the tools of MMAction2 0.16 that it brings along.
REFERENCE = """
    prepare_ucf101.sh prepare_hmdb51.sh prepare_k400.sh resize_k400.sh create_mmact_env.sh install_denseflow.sh download_annotations.sh
    download_videos.sh unzip_videos.sh extract_rgb_frames.sh extract_rgb_frames_opencv.sh extract_frames.sh
    extract_temporal_gradient_frames.sh generate_rawframes_filelist.sh generate_videos_filelist.sh rename_classnames.sh
    build_rawframes.py build_rawframes_temporal_gradient.py build_rawframes_flow_xymag.py resize_video.py build_file_list.py
    parse_file_list.py anno_txt2json.py flow_extraction.py train_semi.py dist_train_semi.sh dist_train_semi_4gpu.sh
    dist_train_semi_8gpu.sh slurm_train.sh slurm_test.sh test.py dist_test.sh analyze_logs.py get_flops.py benchmark.py
    bench_processing.py report_accuracy.py eval_metric.py print_config.py pytorch2onnx.py publish_model.py demo_gradcam.py demo.py
    our_method ablation_main_10percent ablation_align_blocks ablation_alignment_loss ablation_fast_is_better ablation_main_hmdb51
    --task --level --num-worker --flow-type --out-format --ext --mixed-ext --new-short --new-width --new-height --num-gpu --resume
    --use-opencv --input-frames --scale --dense --to-mp4 --remove-dup --num-split --subset --format --rgb-prefix --flow-x-prefix
    --out-root-path --output-format --shuffle --seed --work-dir --resume-from --load-from --validate --test-last --test-best --gpus
    --gpu-ids --deterministic --cfg-options --launcher --eval --out --eval-options --average-clips --fuse-conv-bn --gpu-collect
    --tmpdir --onnx --tensorrt test_modality return_features
"""
PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"
TEXT = PAGE.read_text("utf-8")


def options_of() -> dict[str, set[str]]:
    """`tgprep split` -> its options, for all commands of both programs."""
    found = {}
    for program, group in (("tgprep", tgprep), ("tgtrain", tgtrain)):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            names = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
            found[f"{program} {name}"] = {word for word in names if word.startswith("--")}
    return found


OPTIONS = options_of()
EVERY = set().union(*OPTIONS.values())


def spans() -> Iterator[str]:
    """What the page says of us in code: the last cell of every row of a table, and all other text."""
    for line in TEXT.splitlines():
        row = re.split(r"(?<!\\) \| ", line.strip("| ")) if line.startswith("|") else [line]
        yield from re.findall(r"`([^`]+)`", row[-1])


OURS = list(spans())


@pytest.mark.parametrize("span", [span for span in OURS if re.match(r"(tgprep|tgtrain) |torchrun .*tgtrain ", span)])
def test_commands_and_their_options_exist(span: str) -> None:
    words = re.sub(r"^torchrun .*tgtrain", "tgtrain", span)
    program, name = words.split()[:2]
    assert f"{program} {name}" in OPTIONS, span
    for option in re.findall(r"(?<!\S)--[a-z-]+", words):
        assert option in OPTIONS[f"{program} {name}"], f"{span}: {option}"


def test_options_that_stand_alone_exist() -> None:
    launcher = {"--nproc-per-node"}
    alone = [span for span in OURS if span.startswith("--")]
    assert len(alone) > 40
    for span in alone:
        for option in re.findall(r"(?<!\S)--[a-z-]+", span):
            assert option in EVERY | launcher, span


def test_settings_and_recipes_exist() -> None:
    named = [name for line in TEXT.splitlines() if "--recipe" in line for name in re.findall(r"`([^`]+)`", line)]
    recipes = {name.removeprefix("--recipe ") for name in named if re.match(r"(--recipe )?(ucf101|hmdb51|k400)-", name)}
    assert len(recipes) > 20
    assert recipes <= set(recipe_names())
    settings = re.findall(r"--set ([a-z0-9_.]+)=(\d+)", TEXT)
    assert settings
    for key, value in settings:
        load_recipe("ucf101-20", [f"{key}={value}"])


def test_every_script_and_flag_of_the_reference_has_its_row() -> None:
    left = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    for name in REFERENCE.split():
        assert (
            re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", left)
            or f"`tools/{name} " in TEXT
            or f"`{name}`" in TEXT
        ), name
