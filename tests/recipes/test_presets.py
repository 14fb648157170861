"""Presets, configuration letters and overrides."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from phema.shared.recipes.presets import PRESETS, InvalidConfig, Score, UnknownPreset, resolve
from phema.shared.recipes.run_config import MAX_IMAGES, RunConfig

# Karras et al. 2024, Figures 16-22: batch, alpha_ref, t_ref, beta2, P_mean, P_std, dropout, loss scaling, attention.
TABLE = {
    "a": (4096, 1e-4, None, 0.999, -1.2, 1.2, 0.1, 100.0, (32, 16, 8)),
    "b": (2048, 2e-4, None, 0.99, -0.4, 1.0, 0.1, 100.0, (16, 8)),
    "c": (2048, 2e-4, None, 0.99, -0.4, 1.0, 0.1, 100.0, (16, 8)),
    "d": (2048, 1e-2, None, 0.99, -0.4, 1.0, 0.1, 1.0, (16, 8)),
    "e": (2048, 1e-2, 70_000, 0.99, -0.4, 1.0, 0.1, 1.0, (16, 8)),
    "f": (2048, 1e-2, 70_000, 0.99, -0.4, 1.0, 0.1, 1.0, (16, 8)),
    "s": (2048, 1e-2, 70_000, 0.99, -0.4, 1.0, 0.0, 1.0, (16, 8)),
}


def without_name(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(exclude={"preset"})


@pytest.mark.parametrize("name", TABLE)
def test_hyperparameters_of_the_paper(name: str) -> None:
    c = resolve(f"edm2-img512-{name}")
    network = c.network
    assert network.config == ("G" if name == "s" else name.upper())
    assert (network.img_resolution, network.img_channels, network.label_dim, network.model_channels) == (
        64,
        4,
        1000,
        192,
    )
    assert TABLE[name] == (
        c.batch_size, c.learning_rate, c.lr_decay_iterations, c.adam_beta2, c.p_mean, c.p_std, network.dropout,
        c.loss_scaling, network.attn_resolutions,
    )  # fmt: skip
    assert (c.total_images, c.lr_rampup_images, c.adam_beta1) == (2**31, 10_000_000, 0.9)
    traditional = (50_000_000, 0.05) if name == "a" else (None, None)
    assert (c.ema_half_life_images, c.ema_rampup_ratio) == traditional
    assert c.ema_sigma_rels == (0.05, 0.10)
    assert (c.precision, c.device) == ("float16", "cuda")
    assert (c.dataset.name, c.dataset.path, c.dataset.held_out) == ("imagenet-512-latents", None, 0)


@pytest.mark.parametrize(
    ("name", "channels", "rate", "dropout", "mebi"),
    [
        ("edm2-img512-xxs", 64, 0.0170, 0, 2048), ("edm2-img512-xs", 128, 0.0120, 0, 2048),
        ("edm2-img512-m", 256, 0.0090, 0.1, 2048), ("edm2-img512-l", 320, 0.0080, 0.1, 1792),
        ("edm2-img512-xl", 384, 0.0070, 0.1, 1280), ("edm2-img512-xxl", 448, 0.0065, 0.1, 896),
        ("edm2-img64-xs", 128, 0.0120, 0, 1024), ("edm2-img64-s", 192, 0.0100, 0, 1024),
        ("edm2-img64-m", 256, 0.0090, 0.1, 2048), ("edm2-img64-l", 320, 0.0080, 0.1, 1024),
        ("edm2-img64-xl", 384, 0.0070, 0.1, 640),
    ],
)  # fmt: skip
def test_widths_of_the_paper(name: str, channels: int, rate: float, dropout: float, mebi: int) -> None:
    c, pixels = resolve(name), "img64" in name
    assert (c.network.model_channels, c.learning_rate, c.network.dropout) == (channels, rate, dropout)
    assert c.total_images == mebi * 2**20
    assert (c.p_mean, c.p_std, c.lr_decay_iterations) == ((-0.8, 1.6, 35_000) if pixels else (-0.4, 1.0, 70_000))
    assert c.microbatch == c.max_batch_per_worker == (64 if channels <= 256 else 32)
    assert c.network.img_channels == (3 if pixels else 4)
    assert c.dataset.name == ("imagenet-64" if pixels else "imagenet-512-latents")
    unconditional = resolve(f"{name}-uncond")
    assert unconditional.network.label_dim == 0
    assert without_name(resolve(name, {"network": {"label_dim": 0}})) == without_name(unconditional)


def test_every_preset_says_what_to_expect() -> None:
    assert len(PRESETS) == 7 + 6 + 2 * (7 + 5)
    for name, preset in PRESETS.items():
        assert preset.name == name == preset.config.preset
        assert f"{preset.costs.num_parameters:,} parameters" in preset.description
        assert "Gflops per evaluation" in preset.description
        assert ("FID: not published" in preset.description) == (preset.fid is None)
    assert "in 0.66 zettaflops (5.3 days" in PRESETS["edm2-img512-s"].description
    assert "in 1.3 teraflops (" in PRESETS["digits-tiny"].description
    assert PRESETS["edm2-img512-a"].fid == Score(8.00, 0.034)
    assert PRESETS["edm2-img512-xxl"].fid == Score(1.91, 0.070)
    assert PRESETS["edm2-img512-s-uncond"].fid == Score(11.67, 0.145)
    assert PRESETS["edm2-img64-m"].fid == Score(1.43, 0.060)
    assert "Expected FID: 1.33 at sigma_rel 0.040; FD_DINOv2: not published." in PRESETS["edm2-img64-xl"].description


@pytest.mark.parametrize("letter", "ABCDEFG")
@pytest.mark.parametrize("start", ["a", "d", "g"])
def test_another_letter_brings_its_own_hyperparameters(start: str, letter: str) -> None:
    for family, g in (("edm2-img512-{}", "edm2-img512-s"), ("digits-{}", "digits-tiny")):
        names = {"G": g}
        begin, end = (names.get(x.upper(), family.format(x.lower())) for x in (start, letter))
        assert without_name(resolve(begin, {"network": {"config": letter}})) == without_name(resolve(end))


def test_what_the_user_gives_and_what_letters_agree_on_stays() -> None:
    fields = {"network": {"config": "D", "dropout": 0.3}, "loss_scaling": 7.0}
    given = resolve("edm2-img64-m", fields)
    assert (given.network.dropout, given.loss_scaling) == (0.3, 7.0)
    # Between G and D only the decay and the dropout change: width, duration, noise and rate are the preset's.
    assert given.lr_decay_iterations is None
    assert (given.network.model_channels, given.total_images) == (256, 2**31)
    assert (given.p_mean, given.p_std, given.learning_rate) == (-0.8, 1.6, 0.009)
    plain = resolve("edm2-img64-m", {"network": {"config": "A"}})
    assert (plain.p_mean, plain.learning_rate, plain.batch_size) == (-1.2, 1e-4, 4096)
    assert without_name(resolve("digits-tiny", {"network": {"config": "G"}})) == without_name(resolve("digits-tiny"))


def test_a_complete_configuration_given_back_changes_nothing() -> None:
    for name in PRESETS:
        config = resolve(name).model_dump(mode="json", exclude={"preset"})
        assert resolve(name, config) == resolve(name)


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"nmae": 1}, "nmae", "is not a field of the configuration; allowed: network, dataset, total_images"),
        ({"learning_rat": 1}, "learning_rat", "did you mean 'learning_rate'?"),
        ({"network": {"dropuot": 1}}, "network.dropuot", "did you mean 'dropout'? allowed: config, img_resolution"),
        ({"dataset": {"held": 1}}, "dataset.held", "did you mean 'held_out'? allowed: name, path"),
        ({"total_images": 2**53}, "total_images", f"less than or equal to {MAX_IMAGES}"),
        ({"network": {"config": "H"}}, "network.config", "'F' or 'G', got 'H'"),
        ({"network": {"config": ["D"]}}, "network.config", "got ['D']"),
        ({"network": 3}, "network", "got 3"),
        ({"network": {"config": "F", "res_balance": 0.4}}, "network", "res_balance 0.4 has no meaning in"),
        ({"precision": "bfloat16", "device": "cpu"}, "", "precision bfloat16 needs a GPU and device is cpu"),
        ({"ema_rampup_ratio": 0.1}, "", "has no meaning without ema_half_life_images"),
    ],
)  # fmt: skip
def test_mistakes_are_named(fields: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        resolve("digits-tiny", fields)
    [(path, said)] = caught.value.problems
    assert path == field
    assert sentence in said


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownPreset, match="did you mean 'edm2-img512-xxl'"):
        resolve("edm2-img512-xxxl")


def test_recipes_and_costs_import_no_torch() -> None:
    """The API lists them."""
    program = (
        "import sys; from phema.shared.recipes.presets import PRESETS; [p.figures for p in PRESETS.values()]; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_run_without_a_continuous_evaluation_has_the_document_and_hash_of_earlier_versions() -> None:
    config = resolve("digits-tiny")
    document = config.model_dump(mode="json")
    assert "evaluation" not in document
    assert RunConfig.model_validate(document) == config
    assert config.config_hash == "d5efcac3e51478843ccc2ccece53f8c8ba986cb8d5bb76653adb4c0686d692b0"


def test_a_continuous_evaluation_is_part_of_the_configuration() -> None:
    config = resolve("digits-tiny", {"evaluation": {"every_snapshots": 2, "stop_after_images": 12_800}})
    assert config.evaluation is not None
    assert config.evaluation.every_snapshots == 2
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.config_hash != resolve("digits-tiny").config_hash


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"every_snapshot": 2}, "did you mean 'every_snapshots'"),
        ({"factor": 1.0}, "greater than or equal to 1.05"),
        ({"metrics": ["nonsense"]}, "frechet"),
        ({"every_snapshots": 4, "stop_after_images": 3200}, "stop_after_images 3200 must be at least 12800"),
    ],
)
def test_mistakes_in_a_continuous_evaluation_are_named(evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidConfig, match=sentence):
        resolve("digits-tiny", {"evaluation": evaluation})
