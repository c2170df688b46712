"""Every setting of every baseline changes what is trained, and impossible ones are refused in one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from pydantic import ValidationError

import methods
from harness.errors import ConfigError
from tests.methods import toy

SHARED = {"r": 5, "lora_alpha": 16, "lora_dropout": 0.3, "target_modules": ("q_proj",)}
#: A value for every setting that differs from the toy runs' value, which is the default except in toy.ADAPTER and
#: toy.SCHEDULES.
CHANGES = {
    "full-ft": {},
    "lora": SHARED,
    "dora": SHARED,
    "pissa": SHARED,
    "milora": SHARED,
    "relora": {**SHARED, "merge_every": 5, "restart_warmup": 3, "reset_fraction": 0.9, "reset_choice": "random"},
    "adalora": {
        **SHARED,
        "init_r": 9,
        "tinit": 6,
        "tfinal": 4,
        "deltaT": 4,
        "beta1": 0.2,
        "beta2": 0.2,
        "orth_reg_weight": 0.5,
    },
    "increlora": {
        **SHARED,
        "init_r": 1,
        "r_max": 5,
        "incre_rank_num": 2,
        "top_h": 0.9,
        "growth_start": 6,
        "growth_end": 15,
        "restart_warmup": 3,
        "beta1": 0.5,
        "beta2": 0.2,
        "orth_reg_weight": 0.5,
    },
}

#: What must be set for another setting to say anything. Smoothing changes which module is first, not which three of seven.
ONE_A_STEP = {"top_h": 1, "growth_end": 18}
BESIDE = {
    ("relora", "reset_choice"): {"reset_fraction": 0.9},
    ("increlora", "beta1"): ONE_A_STEP,
    ("increlora", "beta2"): ONE_A_STEP,
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[float]]:
    """The losses of a method trained with the toy settings, but for those that are given, once."""
    return cache(lambda name, **given: toy.start(name, tmp_path_factory.mktemp(name), **given).run().losses)


#: DoRA, PiSSA and MiLoRA hand on LoRA's settings as LoRA does: of theirs the default tests ask the rank alone.
SETTINGS = [
    pytest.param(name, key, marks=pytest.mark.slow if name in ("dora", "pissa", "milora") and key != "r" else ())
    for name, changes in CHANGES.items()
    for key in changes
]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_setting_has_an_effect(name, setting, usual, tmp_path):
    given = BESIDE.get((name, setting), {})
    changed, expected = toy.start(name, tmp_path, **given, **{setting: CHANGES[name][setting]}), usual(name, **given)
    # Up to the first loss that differs, which is the second or third for what no schedule puts off.
    while changed.losses == expected[: len(changed.losses)] and len(changed.losses) < len(expected):
        changed.run(1)
    assert changed.losses != expected[: len(changed.losses)]


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_is_covered(name):
    assert set(CHANGES[name]) == set(methods.get(name).cls.Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "settings", "total", "message"),
    [
        ("adalora", {"init_r": 4}, 20, "init_r: found 4, expected more than the final mean rank r = 4"),
        ("adalora", {"tinit": 15, "tfinal": 5}, 20, "tinit: found 15 steps, expected fewer than total - tfinal = 20 - 5"),
        ("adalora", {"deltaT": 0}, 20, "deltaT"),
        ("adalora", {"tinit": 1.5}, 20, "found 1.5, expected a whole number of optimizer steps or a fraction"),
        ("adalora", {"tinit": -1}, 20, "found -1"),
        ("relora", {"merge_every": 11, "restart_warmup": 0}, 20, "merge_every: found 11 steps, expected at most half"),
        (
            "relora",
            {"merge_every": 5, "restart_warmup": 5},
            20,
            "restart_warmup: found 5 steps, expected fewer than merge_every",
        ),
        ("increlora", {"init_r": 4}, 20, "found init_r 4, r 4, r_max 8, expected 1 <= init_r < r <= r_max"),
        ("increlora", {"r_max": 3}, 20, "r_max 3"),
        (
            "increlora",
            {"top_h": 0.25},
            10,
            "growth_end: found 4 steps between growth_start (1) and growth_end (5), expected at ",
        ),
        ("increlora", {"target_modules": ("embed_tokens",)}, 20, "found model.embed_tokens of type Embedding"),
        ("increlora", {"target_modules": ("c_attn",)}, 20, "found no module named c_attn"),
        ("pissa", {"r": 17}, 20, "r: found 17, expected at most 16"),
        ("milora", {"r": 17}, 20, "r: found 17, expected at most 16"),
    ],
)
def test_impossible_settings_are_refused(name, settings, total, message, tmp_path):
    with pytest.raises((ConfigError, ValidationError)) as error:
        toy.start(name, tmp_path, ctx={"total_steps": total}, **settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adalora", {"tinit": 5000}, "tinit: found 5000 steps, expected fewer than total - tfinal = 100 - 50"),
        ("relora", {"merge_every": 80}, "merge_every: found 80 steps, expected at most half of the run's 100 steps"),
        ("increlora", {"growth_start": 5000}, "growth_end: found 0 steps between growth_start (5000) and growth_end (50)"),
    ],
)
def test_a_schedule_beyond_the_run_is_refused_before_anything_is_trained(name: str, settings: dict, message: str) -> None:
    """Preflight asks every method for its schedule."""
    build = methods.get(name).cls
    build(build.Settings()).schedule(total_steps=100, steps_per_epoch=100)
    with pytest.raises(ValueError, match=re.escape(message)):
        build(build.Settings(**settings)).schedule(total_steps=100, steps_per_epoch=100)


def test_fractions_scale_with_the_run(tmp_path):
    """The default schedules of 20 and of 200 steps have the same shape."""
    for total in (20, 200):
        context = {"total_steps": total}
        ada = toy.start("adalora", tmp_path, ctx=context).model.peft_config["default"]
        assert (ada.tinit, ada.tfinal, ada.total_step, ada.init_r) == (total // 10, total // 2, total, 6)
        grow = toy.start("increlora", tmp_path, ctx=context).method
        assert grow.growth_steps.first == total // 10
        assert toy.start("relora", tmp_path, ctx=context, merge_every=0.1).method.cycle == total // 10


@pytest.mark.parametrize("name", sorted({methods.get(name).cls.name for name in methods.registry()}))
def test_a_truth_value_is_no_number(name: str) -> None:
    settings = methods.get(name).cls.Settings
    numbers = [key for key, value in settings().model_dump().items() if type(value) in (int, float)]
    assert numbers or name == "full-ft"
    for key in numbers:
        with pytest.raises(ValidationError, match=f"{key}\n.*found True, expected a number"):
            settings.model_validate({key: True})
