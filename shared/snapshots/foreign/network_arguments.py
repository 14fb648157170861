"""From the constructor's arguments in a published pickle to phema's configuration of the network. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_records import Module, StoredTensor
from phema.shared.validation_sentences import sentence

_POSITIONS = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
"""Names of the positional arguments of `Precond`."""
_OPTIONAL = {"clip_act"}
"""Arguments that may be None."""
_IGNORED = {"use_fp16"}
"""The precision of activations does not belong to the network; the user chooses it when sampling."""
_LARGEST = {
    "img_resolution": 2**14,
    "img_channels": 2**10,
    "label_dim": 2**24,
    "model_channels": 2**14,
    "channel_mult": 2**8,
    "num_blocks": 2**5,
    "attn_resolutions": 2**14,
    "channels_per_head": 2**14,
    "logvar_channels": 2**14,
}
"""Upper limits, above those of any real network. They keep a hostile file from describing a huge network."""
_MAX_ENTRIES = 16


def network_config(precond: Module, tensors: Mapping[str, StoredTensor], name: str) -> NetworkConfig:
    """The configuration that the arguments of `Precond` describe. `name` is what error messages call the file.

    Raises ForeignFileRefused for an unknown argument, or a value that phema's networks do not support.
    """
    arguments = _arguments(precond, name)
    expressible = arguments.keys() & (NetworkConfig.model_fields.keys() - {"config"})
    unknown = arguments.keys() - expressible - _IGNORED - _fixed(()).keys()
    if unknown:
        raise ForeignFileRefused(name, f"its constructor argument {min(unknown)[:50]!r} is unknown to phema")
    fields = {key: _numbers(key, arguments[key], name) for key in arguments if key in expressible}
    if "model_channels" not in fields:
        fields["model_channels"] = _stem_width(fields, tensors, name)
    try:
        config = NetworkConfig.model_validate({"config": "G", **fields})
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise ForeignFileRefused(name, f"phema cannot build its network: {problem}") from error
    for key, allowed in _fixed(config.channel_mult).items():
        if key in arguments and _plain(arguments[key]) not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ForeignFileRefused(
                name, f"its constructor argument {key} is {_short(arguments[key])}; phema's networks have {wanted}"
            )
    return config


def _fixed(channel_mult: tuple[int, ...]) -> dict[str, tuple[Any, ...]]:
    """Arguments for which phema's networks support one value only, each with its allowed values.

    Noise features use the first channel multiple, the embedding the largest, and resampling the box filter.
    """
    return {
        "channel_mult_noise": (None, *channel_mult[:1]),
        "channel_mult_emb": (None, max(channel_mult, default=None)),
        "resample_filter": ((1, 1),),
    }


def _arguments(precond: Module, name: str) -> dict[str, Any]:
    positional, named = precond.state.get("_init_args", ()), precond.state.get("_init_kwargs", {})
    if type(positional) not in (tuple, list) or type(named) is not dict or len(positional) > len(_POSITIONS):
        raise ForeignFileRefused(name, "its constructor arguments (_init_args, _init_kwargs) are not a list and a dict")
    arguments = dict(zip(_POSITIONS, positional, strict=False))
    if arguments.keys() & named.keys() or not all(type(key) is str for key in named):
        raise ForeignFileRefused(name, "one of its constructor arguments is given twice or has no name")
    return {**arguments, **named}


def _numbers(key: str, value: Any, name: str) -> Any:
    value = _plain(value)
    if value is None and key in _OPTIONAL:
        return None
    entries = value if type(value) is tuple else (value,)
    if len(entries) > _MAX_ENTRIES or not all(type(entry) in (int, float) for entry in entries):
        raise ForeignFileRefused(name, f"its constructor argument {key} is {_short(value)}; numbers are expected")
    largest = _LARGEST.get(key, 2**16)
    if any(entry > largest for entry in entries):
        raise ForeignFileRefused(name, f"its constructor argument {key} is {_short(value)}; the limit is {largest}")
    return value


def _plain(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def _short(value: Any) -> str:
    """Text for error messages. Nested containers are not printed: a hostile file can nest them without limit."""
    if type(value) in (tuple, list) and len(value) <= _MAX_ENTRIES:
        return f"({', '.join(_short_entry(entry) for entry in value)})"
    return _short_entry(value)


def _short_entry(value: Any) -> str:
    plain = type(value) in (int, float, str, bool, type(None))
    return repr(value)[:50] if plain else f"a {type(value).__name__}"


def _stem_width(fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor], name: str) -> int:
    """model_channels, from the first convolution. The file omits it if it is the constructor's default."""
    resolution, multiples = fields.get("img_resolution"), fields.get("channel_mult", (1,))
    stem = tensors.get(f"unet.enc.{resolution}x{resolution}_conv.weight")
    first = multiples[0] if type(multiples) is tuple and multiples else 0
    if stem is None or not stem.shape or type(first) is not int or first < 1 or stem.shape[0] % first:
        raise ForeignFileRefused(name, "it gives no model_channels, and no first convolution implies them")
    return stem.shape[0] // first
