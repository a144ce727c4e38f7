"""Every loss term against a slow plain implementation in numpy, its gradients, and its equality on one and two ranks."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from tgtrain.method import losses
from tgtrain.method.losses import PseudoLabels, gather_rows

Array = np.ndarray


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(x: Array) -> Array:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def cross_entropies(logits: Array, labels: Array) -> list[float]:
    return [-float(row[label]) for row, label in zip(log_softmax(logits), labels, strict=True)]


def test_supervised() -> None:
    logits, labels = randn(7, 5), torch.tensor([0, 4, 1, 1, 2, 3, 0])
    expected = np.mean(cross_entropies(logits.numpy(), labels.numpy()))
    assert float(losses.supervised_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_labelling_logits() -> None:
    weak = {"rgb": randn(4, 3), "tg": randn(4, 3, seed=1)}
    for view in ("rgb", "tg"):
        torch.testing.assert_close(losses.labelling_logits(weak, view, "avg"), (weak["rgb"] + weak["tg"]) / 2)
        assert losses.labelling_logits(weak, view, "individual") is weak[view]
        assert losses.labelling_logits(weak, view, "rgb") is weak["rgb"]
        assert losses.labelling_logits(weak, view, "tg") is weak["tg"]
    assert torch.equal(losses.labelling_logits({"tg": weak["tg"]}, "tg", "avg"), weak["tg"])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 0.95, 1.0])
def test_pseudo_labels_and_their_losses(threshold: float) -> None:
    weak, strong = randn(9, 4, scale=2.0), randn(9, 4, seed=1)
    targets = losses.pseudo_labels(weak, threshold)
    probabilities = np.exp(log_softmax(weak.numpy()))
    trusted = probabilities.max(1) >= threshold
    assert targets.confident_U.tolist() == trusted.tolist()
    assert targets.labels_U.tolist() == probabilities.argmax(1).tolist()

    hard = cross_entropies(strong.numpy(), probabilities.argmax(1))
    expected = sum(loss for loss, use in zip(hard, trusted, strict=True) if use) / 9
    assert float(losses.pseudo_label_loss(strong, targets)) == pytest.approx(expected, rel=1e-5, abs=1e-7)

    soft_targets = np.exp(log_softmax(weak.numpy() / 0.4))
    soft = -(soft_targets * log_softmax(strong.numpy())).sum(1)
    expected = soft[trusted].mean() if trusted.any() else 0.0
    assert float(losses.uda_loss(strong, targets)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_probability_at_the_threshold_is_trusted() -> None:
    # Two equal scores: softmax gives exactly one half.
    assert losses.pseudo_labels(torch.tensor([[3.0, 3.0], [3.0, 2.9]]), 0.5).confident_U.tolist() == [True, True]
    assert losses.pseudo_labels(torch.tensor([[3.0, 3.0]]), 0.5000001).confident_U.tolist() == [False]


def test_pseudo_labels_carry_no_gradient_but_undetached_uda_does() -> None:
    weak, strong = randn(6, 4).requires_grad_(), randn(6, 4, seed=1).requires_grad_()
    targets = losses.pseudo_labels(weak, 0.0)
    for loss in (losses.pseudo_label_loss(strong, targets), losses.uda_loss(strong, targets)):
        into_weak, into_strong = torch.autograd.grad(loss, (weak, strong), allow_unused=True)
        assert into_weak is None
        assert into_strong.abs().sum() > 0
    (into_weak,) = torch.autograd.grad(losses.uda_loss(strong, targets, detach=False), (weak,))
    assert into_weak.abs().sum() > 0


def test_alignment_values() -> None:
    rgb, tg = randn(2, 6, 2, 3, 3), randn(2, 6, 2, 3, 3, seed=1)
    a, b = (x.numpy().astype(np.float64) for x in (rgb, tg))
    cosines = [
        a[n, :, t, h, w] @ b[n, :, t, h, w] / (np.linalg.norm(a[n, :, t, h, w]) * np.linalg.norm(b[n, :, t, h, w]))
        for n, t, h, w in product(range(2), range(2), range(3), range(3))
    ]
    assert float(losses.alignment_loss(rgb, tg, "cosine", "tg")) == pytest.approx(1 - np.mean(cosines), rel=1e-5)
    assert float(losses.alignment_loss(rgb, tg, "l1", "tg")) == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert float(losses.alignment_loss(rgb, tg, "l2", "tg")) == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    assert float(losses.alignment_loss(rgb, 3 * rgb, "cosine", "tg")) == pytest.approx(0, abs=1e-6)


def test_alignment_with_dead_features_is_finite() -> None:
    rgb, tg = torch.zeros(1, 4, 1, 2, 2, requires_grad=True), randn(1, 4, 1, 2, 2)
    loss = losses.alignment_loss(rgb, tg, "cosine", "tg")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1)
    assert rgb.grad is not None
    assert torch.isfinite(rgb.grad).all()


@pytest.mark.parametrize("kind", ["cosine", "l1", "l2"])
@pytest.mark.parametrize("stopped", ["tg", "rgb", "none"])
def test_alignment_stops_the_gradient_on_one_side(kind: losses.AlignKind, stopped: losses.StopGradient) -> None:
    rgb, tg = randn(2, 3, 1, 2, 2).requires_grad_(), randn(2, 3, 1, 2, 2, seed=1).requires_grad_()
    gradients = torch.autograd.grad(losses.alignment_loss(rgb, tg, kind, stopped), (rgb, tg), allow_unused=True)
    assert [gradient is None for gradient in gradients] == [stopped == "rgb", stopped == "tg"]


def plain_contrast(first: Array, second: Array, temperature: float) -> float:
    """Symmetric InfoNCE by loops, in float64."""
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    total = 0.0
    for queries, keys in ((first, second), (second, first)):
        for i, query in enumerate(queries):
            similarities = np.array([query @ key / temperature for key in keys])
            total += np.log(np.exp(similarities).sum()) - similarities[i]
    return total / (2 * len(first))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_contrast_values(temperature: float) -> None:
    first, second = randn(6, 8), randn(6, 8, seed=1)
    expected = plain_contrast(first.numpy().astype(float), second.numpy().astype(float), temperature)
    assert float(losses.contrast_loss(first, second, temperature)) == pytest.approx(expected, rel=1e-5)


def test_contrast_over_clips() -> None:
    clips = {"rgb": [randn(5, 8), randn(5, 8, seed=1)], "tg": [randn(5, 8, seed=2), randn(5, 8, seed=3)]}
    (r1, r2), (t1, t2) = ([clip.numpy().astype(float) for clip in clips[view]] for view in ("rgb", "tg"))
    expected = {
        "crossview_sameclip": (plain_contrast(r1, t1, 0.5) + plain_contrast(r2, t2, 0.5)) / 2,
        "crossview": (plain_contrast(r1, t2, 0.5) + plain_contrast(r2, t1, 0.5)) / 2,
        "rgb": plain_contrast(r1, r2, 0.5),
        "tg": plain_contrast(t1, t2, 0.5),
    }
    for variant, value in expected.items():
        got = losses.clip_contrast_loss(clips, variant, 0.5)
        assert float(got) == pytest.approx(value, rel=1e-5), variant


def test_losses_are_float32_under_autocast() -> None:
    logits, labels, embeddings = randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), randn(6, 8)
    targets = losses.pseudo_labels(logits, 0.2)
    plain = losses.contrast_loss(embeddings, embeddings.flip(0), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        low = embeddings.bfloat16()
        assert float(losses.contrast_loss(embeddings, embeddings.flip(0), 0.1)) == float(plain)
        for loss in (
            losses.contrast_loss(low, low.flip(0), 0.1),
            losses.supervised_loss(logits.bfloat16(), labels),
            losses.pseudo_label_loss(logits.bfloat16(), targets),
            losses.uda_loss(logits.bfloat16(), targets),
            losses.alignment_loss(low[..., None, None, None], low.flip(0)[..., None, None, None], "cosine", "tg"),
        ):
            assert loss.dtype == torch.float32


def test_gather_of_one_rank_is_the_rows_themselves() -> None:
    rows = randn(3, 2)
    gathered, first = gather_rows(rows)
    assert gathered is rows
    assert first == 0


NUM_RANKS = 2
ROWS = 4


def embeddings_and_logits() -> dict[str, Tensor]:
    """Rows of both ranks, rank 0 first."""
    shapes = {"rgb": (NUM_RANKS * ROWS, 8), "tg": (NUM_RANKS * ROWS, 8), "weak": (NUM_RANKS * ROWS, 5)}
    made = {name: randn(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return {**made, "strong": randn(NUM_RANKS * ROWS, 5, seed=9)}


def three_losses(rows: dict[str, Tensor], labels: Tensor) -> list[Tensor]:
    targets: PseudoLabels = losses.pseudo_labels(rows["weak"], 0.35)
    return [
        losses.clip_contrast_loss({"rgb": [rows["rgb"]], "tg": [rows["tg"]]}, "crossview_sameclip", 0.5),
        losses.supervised_loss(rows["strong"], labels),
        losses.pseudo_label_loss(rows["strong"], targets),
    ]


def on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=NUM_RANKS)
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    rows = {name: x[own].clone().requires_grad_() for name, x in embeddings_and_logits().items()}
    values = three_losses(rows, torch.arange(NUM_RANKS * ROWS)[own] % 5)
    sum(values).backward()
    gradients = {name: x.grad for name, x in rows.items()}
    torch.save({"values": [v.detach() for v in values], "gradients": gradients}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_rank_with_the_joined_batch(tmp_path: Path) -> None:
    """The mean over ranks of losses and gradients, which DistributedDataParallel takes, is that of the joined batch."""
    mp.spawn(on_one_rank, args=(str(tmp_path),), nprocs=NUM_RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(NUM_RANKS)]

    rows = {name: x.requires_grad_() for name, x in embeddings_and_logits().items()}
    trusted = losses.pseudo_labels(rows["weak"], 0.35).confident_U
    assert trusted.any()
    assert not trusted.all()
    values = three_losses(rows, torch.arange(NUM_RANKS * ROWS) % 5)
    sum(values).backward()

    for i, value in enumerate(values):
        mean = torch.stack([rank["values"][i] for rank in ranks]).mean()
        torch.testing.assert_close(mean, value.detach())
    for name, x in rows.items():
        if name == "weak":
            assert x.grad is None
            continue
        joined = torch.cat([rank["gradients"][name] for rank in ranks]) / NUM_RANKS
        torch.testing.assert_close(joined, x.grad, msg=lambda m, name=name: f"{name}: {m}")
