"""Run files: the configuration of a run in YAML, TOML or JSON, by the ending of the file's name."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from phema.errors import InvalidArgument
from phema.shared.recipes.dotted_fields import dotted_fields

RunFileFormat = Literal["yaml", "toml", "json"]
_FORMATS: dict[str, RunFileFormat] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def read_run_file(path: str | Path) -> dict[str, Any]:
    """The fields of a run file, nested as in the file. `preset` names the preset that has all other fields.

    Raises InvalidArgument, which names the file, if the file cannot be read, is not in the format of its ending, names
    a field twice, or does not hold fields.
    """
    file = Path(path)
    format = _FORMATS.get(file.suffix.lower())
    if format is None:
        raise InvalidArgument(f"run file {path} has no known ending; it must be {', '.join(_FORMATS)}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"run file {path} is not text in UTF-8: byte {error.start} is not valid") from None
    except OSError as error:
        raise InvalidArgument(f"run file {path} cannot be read: {error.strerror or error}") from None
    readers: dict[str, Callable[[str], Any]] = {"yaml": _read_yaml, "toml": tomllib.loads, "json": _read_json}
    try:
        document = readers[format](text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"run file {path} is not valid {format.upper()}: {_one_line(error)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidArgument(
            f"run file {path} must hold fields of a configuration, such as total_images, not {_kind(document)}"
        )
    _check_names(document, str(path))
    return document


def format_run_file(fields: Mapping[str, Any], format: RunFileFormat) -> str:
    """The text of a run file with these fields.

    TOML has no null, so TOML raises InvalidArgument if a field is None.
    """
    if format == "json":
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    if format == "toml":
        import tomli_w  # here and below: most commands write no run file, and start faster without

        if (empty := _first_none(fields)) is not None:
            raise InvalidArgument(f"{empty} is null, which TOML cannot express; use the format yaml or json")
        return tomli_w.dumps(fields)
    import yaml

    return yaml.dump(dict(fields), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120)


def _read_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{name} is given twice")
            found[name] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place is not None else ""
        raise ValueError(f"{where}{error.problem or error.context or 'it cannot be parsed'}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _loader() -> Any:
    """A SafeLoader that refuses fields given twice, and reads numbers such as 1e-3 as numbers and dates as text."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for index, (key, _) in enumerate(node.value):
                if isinstance(key, yaml.ScalarNode) and key.value in names[:index]:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            return super().construct_mapping(node, deep)

    # YAML 1.1, which PyYAML follows, wants a dot and a sign in floats; YAML 1.2, JSON and people do not.
    number = re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+\Z")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _dumper() -> Any:
    """A SafeDumper that writes short lists on one line and nested fields as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(
        list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
    )
    return Dumper


def _check_names(fields: Mapping[Any, Any], path: str, parents: str = "") -> None:
    for name, value in fields.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"run file {path}: {parents}{name} is {_kind(name)}; the name of a field is a text")
        if isinstance(value, Mapping):
            _check_names(value, path, f"{parents}{name}.")


def _first_none(fields: Mapping[str, Any]) -> str | None:
    return next((name for name, value in dotted_fields(fields).items() if value is None), None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "it is nested too deeply"


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)
