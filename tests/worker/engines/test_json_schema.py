"""Schemas for llama.cpp's grammar converter: refused ones are translated, others stay unchanged."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.llamacpp.json_schema import for_grammar

STRING = {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": STRING, "const": {"enum": ["x", None, False]}}, "required": ["a"]},
        {"type": ["string", "null"], "default": None, "description": "d"},
        {"const": None},
        {"const": {"a": None, "b": [True]}},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"type": "object", "additionalProperties": True, "examples": [{"a": None}]},
        {"$defs": {"A": STRING}, "type": "object", "properties": {"a": {"$ref": "#/$defs/A", "description": "d"}}},
        {"definitions": {"A": STRING}, "$ref": "#/definitions/A"},
        {"type": "object", "properties": {"a": STRING, "b": {"$ref": "#/properties/a"}}},
        {"anyOf": [{"type": "array", "items": STRING}, {"type": "null"}], "not": {"const": 1}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://example.com/x.json"},
        {"type": "integer", "minimum": 0, "maximum": 10.5, "minItems": -1},
        {"type": "wat", "properties": 7, "anyOf": [], "items": "x"},
    ],
    ids=str,
)
def test_accepted_and_invalid_schemas_stay_unchanged(schema: Any) -> None:
    assert for_grammar(schema) == schema


@pytest.mark.parametrize(
    ("schema", "translated"),
    [
        (True, {}),
        ({"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": "object", "properties": {"a": None}}, {"type": "object", "properties": {"a": {}}}),
        (
            {"type": "object", "properties": {"a": False, "b": STRING}, "additionalProperties": True},
            {"type": "object", "properties": {"b": STRING}, "additionalProperties": False},
        ),
        ({"type": "object", "additionalProperties": {"enum": []}}, {"type": "object", "additionalProperties": False}),
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        ({"type": "array", "items": False}, {"type": "array", "maxItems": 0}),
        ({"type": "array", "items": [STRING, False, STRING]}, {"type": "array", "items": [STRING], "maxItems": 1}),
        (
            {"type": "array", "prefixItems": [True], "items": False},
            {"type": "array", "prefixItems": [{}], "maxItems": 1},
        ),
        ({"type": ["array", "null"], "items": False, "minItems": 1}, {"type": ["null"]}),
        ({"type": ["object", "null"], "properties": {"a": False}, "required": ["a"]}, {"type": ["null"]}),
        ({"anyOf": [False, STRING, True, None]}, {"anyOf": [STRING, {}]}),
        ({"allOf": [True, STRING]}, {"allOf": [STRING]}),
        ({"allOf": [True]}, {}),
        ({"type": "string", "enum": None, "pattern": None}, STRING),
        ({"type": "string", "minLength": 2.0}, {"type": "string", "minLength": 2}),
        ({"type": "integer", "minimum": -1e30, "maximum": 2**64}, {"type": "integer"}),
        ({"$defs": {"A": True, "B": False}, "$ref": "#/$defs/A"}, {"$defs": {"A": {}}, "$ref": "#/$defs/A"}),
        (
            {"$defs": {"A": False}, "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}},
            {"$defs": {}, "type": "object", "properties": {}, "additionalProperties": False},
        ),
        (
            {"$defs": {"A/B": STRING}, "anyOf": [{"$ref": "#/$defs/A~1B"}]},
            {"$defs": {"A/B": STRING, "defs_A_1B": STRING}, "anyOf": [{"$ref": "#/$defs/defs_A_1B"}]},
        ),
        (
            {"$defs": {"A": {"$anchor": "x", **STRING}}, "anyOf": [{"$ref": "#x"}]},
            {
                "$defs": {"A": {"$anchor": "x", **STRING}, "x": {"$anchor": "x", **STRING}},
                "anyOf": [{"$ref": "#/$defs/x"}],
            },
        ),
        (
            {
                "$id": "https://example.com/s",
                "$defs": {"A": STRING},
                "items": {"$ref": "https://example.com/s#/$defs/A"},
            },
            {
                "$id": "https://example.com/s",
                "$defs": {"A": STRING, "https_example_com_s_defs_A": STRING},
                "items": {"$ref": "#/$defs/https_example_com_s_defs_A"},
            },
        ),
    ],
    ids=str,
)
def test_refused_schemas_are_translated(schema: Any, translated: Any) -> None:
    assert for_grammar(schema) == translated


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    node = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/root"}}}}
    assert for_grammar(tree) == {**node, "$defs": {"root": node}}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"not": {}},
        {"anyOf": [False, {"enum": []}]},
        {"allOf": [STRING, False]},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "array", "items": False, "minItems": 1},
        {"$defs": {"A": False}, "$ref": "#/$defs/A"},
        {"$defs": {"A/B": False}, "anyOf": [{"$ref": "#/$defs/A~1B"}, {"$ref": "#/$defs/A~1B"}]},
    ],
    ids=str,
)
def test_schemas_that_allow_nothing_are_detected(schema: Any) -> None:
    assert for_grammar(schema) is None


# ── any schema ──

NAMES = st.sampled_from(["a", "b"])
LEAVES = st.sampled_from(
    [
        True,
        False,
        {},
        STRING,
        {"type": "integer"},
        {"type": "null"},
        {"enum": []},
        {"enum": ["x", None]},
        {"const": None},
    ]
)


def nodes(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(schemas, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(NAMES, schemas)},
            optional={"additionalProperties": schemas, "required": st.lists(NAMES, unique=True, max_size=2)},
        ),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["array", ["array", "null"]]), "items": schemas},
            optional={"minItems": st.integers(0, 2), "prefixItems": some},
        ),
        some.map(lambda members: {"anyOf": members}),
        some.map(lambda members: {"allOf": members}),
    )


VALUES = st.recursive(
    st.sampled_from(["x", "y", 1, None, True]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=2),
    max_leaves=6,
)


@given(st.recursive(LEAVES, nodes, max_leaves=8), st.lists(VALUES, max_size=8))
def test_the_translation_allows_no_other_values(schema: Any, values: list[Any]) -> None:
    translated = for_grammar(schema)
    for value in values:
        before = jsonschema.Draft202012Validator(schema).is_valid(value)
        after = translated is not None and jsonschema.Draft202012Validator(translated).is_valid(value)
        assert before or not after
    assert booleans_in(translated) == []


def booleans_in(schema: Any) -> list[Any]:
    """Returns the boolean schemas; the converter accepts them only as `additionalProperties`."""
    if not isinstance(schema, dict):
        return [] if schema is None else [schema]
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
    parts += [*schema.get("prefixItems", ()), *([schema["items"]] if "items" in schema else ())]
    parts += [each for each in [schema.get("additionalProperties")] if not isinstance(each, bool)]
    return [found for part in parts for found in booleans_in(part)]
