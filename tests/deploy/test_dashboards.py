"""The dashboards as files, by the models that Grafana generates from its schema. No Grafana server is to be had from a package registry:
what one would draw is not tested; every query is (tests/integration/test_alerts.py)."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARDS = sorted((Path(__file__).parents[2] / "grafana" / "dashboards").glob("*.json"))


def by_the_schema(raw: dict[str, Any]) -> Any:
    """What is left of it when only the fields that the schema knows are read. Raises ValueError where a value is none of the schema's."""
    plugins.register_default_plugins()
    made = Dashboard.from_json(raw)
    hold(made, Dashboard, "dashboard")
    return json.loads(JSONEncoder().encode(made))


def hold(value: Any, wanted: Any, where: str) -> None:
    """`value` is of the type that the generated models declare, all the way down."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any or (wanted is float and isinstance(value, int)):
        return
    if origin in (Union, UnionType):
        if not any(holds(value, one, where) for one in inner):
            raise ValueError(f"{where}: {value!r} is none of {wanted}")
    elif origin is Literal:
        if value not in inner:
            raise ValueError(f"{where}: {value!r} is none of {inner}")
    elif isinstance(wanted, type) and issubclass(wanted, Enum):
        wanted(value)
    elif origin is list:
        for number, one in enumerate(value):
            hold(one, inner[0], f"{where}[{number}]")
    elif origin is dict:
        for key, one in value.items():
            hold(one, inner[1], f"{where}.{key}")
    elif not isinstance(value, wanted):
        raise ValueError(f"{where}: {value!r} is no {wanted.__name__}")
    elif hasattr(wanted, "from_json"):
        for name, declared in get_type_hints(type(value)).items():
            hold(getattr(value, name), declared, f"{where}.{name}")


def holds(value: Any, wanted: Any, where: str) -> bool:
    try:
        hold(value, wanted, where)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_schema_knows_every_field(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(raw["panels"]) >= 5
    assert by_the_schema(raw) == raw


def test_a_field_or_a_value_that_it_does_not_know_shows() -> None:
    raw = json.loads(DASHBOARDS[0].read_text(encoding="utf-8"))
    misspelt = raw | {"refrehs": "5s"}
    assert by_the_schema(misspelt) != misspelt
    target = {**raw["panels"][-1]["targets"][0], "exprr": "up"}
    panels = [*raw["panels"][:-1], {**raw["panels"][-1], "targets": [target]}]
    assert by_the_schema(raw | {"panels": panels}) != raw | {"panels": panels}
    with pytest.raises(ValueError, match="panels"):
        by_the_schema(
            raw
            | {
                "panels": [
                    {**raw["panels"][-1], "fieldConfig": {"defaults": {"color": {"mode": "sideways"}}, "overrides": []}}
                ]
            }
        )
