"""From Hydra's composed tree to the typed :class:`RunConfig`."""

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from orchestrator.config.errors import describe
from orchestrator.config.preflight import PreflightConfig
from orchestrator.config.schema import RunConfig
from orchestrator.errors import ConfigError

_ADAPTER = TypeAdapter(RunConfig)
_WITH_TARGET = ("task", "sampler", "pruner")


def to_run_config(tree: DictConfig) -> RunConfig:
    """Check every value of the composed ``tree`` and return it typed and frozen.

    Raises:
        ConfigError: one line that names the place, the value and what would be right.
    """
    return from_plain(_plain(tree))


def from_plain(values: Mapping[str, Any]) -> RunConfig:
    """The typed form of nested plain values (as :func:`to_plain` gives them)."""
    # Through JSON because strict validation takes dictionaries and lists for what they are only there.
    try:
        return _ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(describe(error, RunConfig)) from None


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Nested plain values: what is written as YAML or JSON beside a sweep."""
    plain: dict[str, Any] = json.loads(_ADAPTER.dump_json(config))
    return plain


def to_yaml(values: Mapping[str, Any]) -> str:
    """``values`` as YAML that Hydra can load."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def preflight_defaults() -> dict[str, Any]:
    """Nested plain values of every setting of the preflight: each has its default in one place, the schema."""
    plain: dict[str, Any] = json.loads(TypeAdapter(PreflightConfig).dump_json(PreflightConfig()))
    return plain


def _plain(tree: DictConfig) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: give {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    for group in _WITH_TARGET:
        if isinstance(plain.get(group), dict) and "_target_" in plain[group]:
            plain[group]["target"] = plain[group].pop("_target_")
    return plain
