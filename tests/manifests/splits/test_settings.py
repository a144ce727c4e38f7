"""Settings of a split: mistakes are reported, shares are exact."""

from __future__ import annotations

import pytest

from manifests.records import InputError
from manifests.splits.settings import SplitSettings, share


def test_share_is_exact() -> None:
    assert share(20, 9537) == 1907
    assert share(0.1, 1000) == 1
    assert share(0.3, 1000) == 3
    assert share(29, 100) == 29  # 0.29 * 100 is 28.999999999999996
    assert share(100, 7) == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either --percent P or --per-class N"),
        ({"percent": 20, "per_class": 3}, "give either"),
        ({"percent": 0}, "--percent 0: expected more than 0"),
        ({"percent": float("nan")}, "--percent nan"),
        ({"percent": 20, "strategy": "uniform"}, "expected one of random, stratified, per-class"),
        ({"percent": 20, "strategy": "per-class"}, "--per-class N goes with"),
        ({"per_class": 3}, "--per-class N goes with"),
        ({"per_class": 3, "strategy": "per-class", "by_group": True}, "use --percent"),
        ({"percent": 20, "fold": 0}, "folds count from 1"),
        ({"percent": 20, "seed": -1}, "--seed -1"),
        ({"percent": 20, "hold_out_percent": 100}, "--hold-out 100"),
        ({"percent": 20, "name": "../x"}, "--name '../x'"),
    ],
)
def test_settings_mistakes(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SplitSettings(**values)  # type: ignore[arg-type]
    assert message in str(caught.value)
