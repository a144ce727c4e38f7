"""What a log and a display say of a run, as text. No torch: a display begins before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from tgtrain.method.settings import ContrastVariant

LOG_COLUMNS = 99  # of a line
_TERMS = {
    "sup": ("loss/supervised_rgb", "loss/supervised_tg"),
    "pseudo": ("loss/pseudo_rgb", "loss/pseudo_tg"),
    "soft": ("loss/soft_rgb", "loss/soft_tg"),
    "align": tuple(f"loss/align_stage{stage}" for stage in range(1, 5)),
    "contrast": tuple(f"loss/contrast_{variant}" for variant in get_args(ContrastVariant)),
}


def figures_line(named: dict[str, float], num_classes: int) -> str:
    """Accuracies in words; top5 of 5 classes or fewer is left out."""
    return "  ".join(
        f"{name} {100 * value:.2f} %" for name, value in named.items() if not name.startswith("top5") or num_classes > 5
    )


def coverage_line(coverage: dict[str, int]) -> str:
    """`labelled 6 of 6 videos seen, pass 5; unlabelled ...`."""
    return "; ".join(
        f"{name} {coverage[f'{name}_num_seen']} of {coverage[f'{name}_num_videos']} videos seen, pass "
        f"{coverage[f'{name}_num_passes'] + bool(coverage[f'{name}_num_in_pass'])}"
        for name in ("labelled", "unlabelled")
        if f"{name}_num_videos" in coverage
    )


def loss_terms(values: Mapping[str, float]) -> dict[str, float]:
    """The terms of the loss that a run has, the views of each added up, by short names."""
    return {
        label: sum(values[name] for name in names if name in values)
        for label, names in _TERMS.items()
        if any(name in values for name in names)
    }


def step_line(step: int, num_steps: int, epoch: int, values: Mapping[str, float]) -> str:
    """What a log shows of an interval, in lines of at most 99 columns of which all but the first are indented."""
    seconds = values["seconds_left"]
    left = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    if seconds >= 3600:
        left = f"{seconds / 3600:.1f} h"
    terms = " ".join(f"{label} {value:.3f}" for label, value in loss_terms(values).items())
    head = [f"step {step}/{num_steps} epoch {epoch + 1}", f"loss {values['loss/total']:.3f} ({terms})"]
    pieces = []
    if "train/mask_fraction" in values:
        pieces.append(f"trusted {100 * values['train/mask_fraction']:.0f} %")
        if "train/pseudo_precision" in values:
            pieces[-1] += f" right {100 * values['train/pseudo_precision']:.0f} %"
    if values.get("num_skipped"):  # by the scaler of float16, since the start of the run
        pieces.append(f"skipped {values['num_skipped']:.0f}")
    pieces += [f"lr {values['learning_rate']:.4g}", f"{values['clips_per_second']:.1f} clips/s"]
    pieces += [f"waiting {100 * values['waiting_share']:.0f} %", f"{left} left"]
    together = flowed([*head, *pieces], LOG_COLUMNS)
    apart = [*flowed(head, LOG_COLUMNS - 2), *flowed(pieces, LOG_COLUMNS - 2)]
    return "\n  ".join(apart if len(together) > 1 else together)


def flowed(pieces: Sequence[str], width: int, gap: str = "  ") -> list[str]:
    """Lines of at most `width` columns of pieces, each of which stays whole. A longer piece has a line of its own."""
    lines = list(pieces[:1])
    for piece in pieces[1:]:
        if len(lines[-1]) + len(gap) + len(piece) <= width:
            lines[-1] += gap + piece
        else:
            lines.append(piece)
    return lines
