"""The reference of every setting, from the schema and the shipped YAML: ``python -m orchestrator.config.reference``.

It prints ``docs/configuration.md``; a test holds the two together.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from orchestrator.config.compose import to_plain
from orchestrator.config.entry import compose
from orchestrator.config.schema import RunConfig
from orchestrator.config.space import RangeConfig, SpaceConfig
from orchestrator.files import data_folder

Schema = Mapping[str, Any]

_HEAD = """# Configuration

Made from the schema (`python -m orchestrator.config.reference > docs/configuration.md`); do not edit.

Every setting is a key of the composed configuration: `python run.py GROUP.KEY=VALUE`, and `GROUP=OPTION` chooses one
of a group's files. `python run.py stage=lr --cfg job` prints the whole of it. A misspelt key or an impossible value
ends the command with one line that names what is known. Defaults are those of `python run.py` without any word.
"""
_KINDS = {
    "integer": "whole number",
    "boolean": "true or false",
    "string": "text",
    "object": "map",
    "array": "list",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
"""JSON schema's words, and plain ones."""
_APART = ("stages", "space", "model")
"""Maps with entries of a kind, each with a section of its own."""


def reference() -> str:
    """The whole page, as Markdown."""
    schema = TypeAdapter(RunConfig).json_schema()
    values = to_plain(compose([]))
    groups = {name: _definition(schema, item) for name, item in schema["properties"].items() if _is_group(item)}
    plain = {name: item for name, item in schema["properties"].items() if name not in groups and name not in _APART}
    parts = [_HEAD, _group("The command itself", "", "", plain, values, schema)]
    for name, item in groups.items():
        if name == "preflight":
            parts.append(_preflight(item, values[name], schema))
        else:
            parts.append(
                _group(name, f"{name}.", item.get("description", ""), item["properties"], values[name], schema)
            )
    stage = schema["$defs"]["StageConfig"]
    told = f"{stage['description']} Names: {', '.join(values['stages'])}. Which order: `recipe.order`."
    parts.append(_group("stages.NAME", "stages.NAME.", told, stage["properties"], {}, schema))
    parts.append(_ranges(compose([]).space))
    return "\n".join(parts)


def _is_group(item: Schema) -> bool:
    return "$ref" in item or "allOf" in item


def _definition(schema: Schema, item: Schema) -> Schema:
    found: Schema = schema["$defs"][str(item.get("$ref") or item["allOf"][0]["$ref"]).rpartition("/")[2]]
    return found


def _group(
    title: str, prefix: str, told: str, properties: Mapping[str, Schema], values: Mapping[str, Any], schema: Schema
) -> str:
    options = sorted(path.stem for path in (data_folder("conf") / title).glob("*.yaml")) if prefix else []
    listed = f"\nOptions (`{title}=OPTION`): {', '.join(f'`{name}`' for name in options)}.\n" if options else ""
    rows = [["key", "takes", "default", "what it is"]]
    for name, item in properties.items():
        shown = "_target_" if name == "target" else name
        default = values[name] if name in values else item.get("default", ...)
        rows.append([f"`{prefix}{shown}`", _takes(item, schema), _default(default), item.get("description", "")])
    return f"## {title}\n\n{told}\n{listed}\n{_table(rows)}\n".replace("\n\n\n", "\n\n")


def _preflight(item: Schema, values: Mapping[str, Any], schema: Schema) -> str:
    own = {name: entry for name, entry in item["properties"].items() if name != "settings"}
    checks = _definition(schema, item["properties"]["settings"])["properties"]
    rows = [["key", "takes", "default", "what it is"]]
    for check, entry in checks.items():
        for name, threshold in _definition(schema, entry)["properties"].items():
            default = values["settings"][check][name]
            rows.append(
                [f"`{check}.{name}`", _takes(threshold, schema), _default(default), threshold.get("description", "")]
            )
    section = _group("preflight", "preflight.", item.get("description", ""), own, values, schema)
    return f"{section}\nThresholds and budgets of the checks, as `preflight.settings.CHECK.KEY`:\n\n{_table(rows)}\n"


def _ranges(space: SpaceConfig) -> str:
    fields = TypeAdapter(RangeConfig).json_schema()
    rows = [["key", "takes", "default", "what it is"]]
    for name, item in fields["properties"].items():
        text = item.get("description", "")
        rows.append([f"`space.FAMILY.NAME.{name}`", _takes(item, fields), _default(item.get("default", ...)), text])
    known = [["hyperparameter", "searched", "limits", "scale", "unit", "why", "source"]]
    for family, entries in space.items():
        for name, entry in entries.items():
            searched = ", ".join(map(str, entry.choices)) if entry.choices else f"{entry.low:g} to {entry.high:g}"
            limits = "" if entry.choices else "{:g} to {:g}".format(*entry.hard_limits)
            zero = ", or 0" if entry.zero else ""
            known.append(
                [f"`{family}.{name}`", searched + zero, limits, entry.scale, entry.unit, entry.why, entry.source]
            )
    return (
        f"## space\n\nWhat may be searched, and how. {RangeConfig.__doc__}\n\n{_table(rows)}\n\n"
        f"The shipped search spaces (`search_spaces/`); a task or your own YAML may change and add to them:\n\n"
        f"{_table(known)}\n"
    )


def _takes(item: Schema, schema: Schema) -> str:
    if "anyOf" in item:
        return " or ".join(_takes(other, schema) for other in item["anyOf"])
    if "enum" in item:
        return ", ".join(f"`{value}`" for value in item["enum"])
    if "const" in item:
        return f"`{item['const']}`"
    if _is_group(item):
        return str(_definition(schema, item).get("title", "a map"))
    kind = str(item.get("type", "any value"))
    told = [f"{word} {item[key]:g}" for key, word in _BOUNDS.items() if key in item]
    return " ".join([_KINDS.get(kind, kind), *told])


def _default(value: Any) -> str:
    if value is ...:
        return "to be given"
    return f"`{json.dumps(value)}`" if value != "" else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    print(reference(), end="")
