"""MkDocs hook: the reference of rooms from their docstrings, and of config fields from the config dataclasses."""

import dataclasses
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from docstring_parser import parse_from_object
from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import feclip
from feclip import config as fields_of
from feclip.logs import LogConfig

REPOSITORY = Path(__file__).parents[2]

NOT_SHOWN = {"cli", "config", "score_keys"}
"""Rooms that a user of the library does not import; the config has a page of its own."""


SHOWN_OF_ANOMALIB = ("lightning_model", "labelled", "pre_processor", "post_processor", "components")


def commands() -> dict[str, type[Any]]:
    """Return the config of each command by the command's name: every config that no other one is made of."""
    configs = [kind for name in fields_of.__all__ if dataclasses.is_dataclass(kind := getattr(fields_of, name))]
    parts = {hint for config in configs for hint in typing.get_type_hints(config).values()}
    return {config.__name__.removesuffix("Config").lower(): config for config in configs if config not in parts}


def rooms() -> dict[str, list[str]]:
    """Return the rooms of the library, each with the modules whose public names its page shows."""
    names = sorted(module.name for module in pkgutil.iter_modules(feclip.__path__))
    shown = {name: [f"feclip.{name}"] for name in names if not name.startswith("_") and name not in NOT_SHOWN}
    shown["integrations"] = [f"feclip.integrations.anomalib.{name}" for name in SHOWN_OF_ANOMALIB]
    of_cluster = [module.name for module in pkgutil.iter_modules([str(REPOSITORY / "feclip" / "cluster")])]
    return shown | {"cluster": [f"feclip.cluster.{name}" for name in of_cluster if name in {"session", *commands()}]}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each room into the navigation."""
    (reference,) = [section["Reference"] for section in config.nav or [] if "Reference" in section]
    reference += [{f"feclip.{name}": f"reference/{name}.md"} for name in rooms()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add one page for each room, and one for the config."""
    for name, modules in rooms().items():
        blocks = "\n\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=f"# feclip.{name}\n\n{blocks}"))
    files.append(File.generated(config, "reference/config.md", content=config_page()))
    return files


def config_page() -> str:
    """Return the page of every config field: what it is called, its default, its values and its meaning."""
    lines = [
        "# Every config field",
        "",
        "The dotted names are the flags of a job, the keys of its YAML file, the keys of a search space, and what a",
        "bundle records. The texts are those of `python jobs/<job>.py --print_config=comments`.",
        "",
    ]
    for job, config in commands().items():
        script = f"jobs/{job}.py"
        called = script if (REPOSITORY / script).is_file() else f"feclip {job}"
        lines += [f"## {job}: `{called}` {{#{job}}}", "", f"{_summary(config)}", ""]
        for prefix, group in _groups(config):
            title = f"### {job}: `{prefix}`" if prefix else ""
            lines += [title, "", _summary(group), ""] if prefix else []
            lines += ["| field | default | meaning |", "|---|---|---|"]
            lines += _rows(group, prefix=prefix)
            lines.append("")
    lines += ["## every command: `log` {#log}", "", _summary(LogConfig), "", "| field | default | meaning |"]
    lines += ["|---|---|---|", *_rows(LogConfig, prefix="log"), ""]
    return "\n".join(lines)


def _groups(config: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    """Yield the config itself and what it is made of, each with the prefix of its fields."""
    yield "", config
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield field.name, hints[field.name]


def _rows(config: type[Any], *, prefix: str) -> Iterator[str]:
    meanings = {param.arg_name: param.description or "" for param in parse_from_object(config).params}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        name = f"{prefix}.{field.name}" if prefix else field.name
        words = _words(hints[field.name])
        values = f" One of {', '.join(f'`{word}`' for word in words)}." if words else ""
        meaning = " ".join(meanings[field.name].split()).replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{name}` | {_default(field)} | {meaning}{values} |"


def _words(hint: Any) -> list[str]:  # noqa: ANN401 - any annotation
    """Return the words that a field may be, if it is one of a few."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [str(word) for kind in kinds if isinstance(kind, type) and issubclass(kind, StrEnum) for word in kind]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def _summary(config: type[Any]) -> str:
    return " ".join((parse_from_object(config).short_description or "").split())


class PlainDocstrings(Extension):
    """Names after Sphinx's roles become code, and what follows ``Example:`` is shown as the session that it is."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - griffe's signature
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            text = re.sub(r":(?:mod|class|func|meth|attr|data|exc):`", "`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
