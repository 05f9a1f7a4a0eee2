"""Translates JSON Schemas into equivalent ones that llama.cpp's grammar converter accepts. No I/O.

The converter refuses `true` and `false` as schemas, null keywords, references other than plain names, counts written as
`1.0`, and bounds beyond 64 bits. Everything else stays unchanged, because the model reads the schemas of its tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeGuard, cast
from urllib.parse import unquote

Schema = dict[str, Any]

NULL_MEANS_SOMETHING = ("const", "default")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
DEFINITIONS = ("$defs", "definitions")
LOWEST, HIGHEST = -(2**63), 2**63 - 1

PLAIN_REFERENCE = re.compile(r"#(/(?!\d+(/|$))[^/~%]+)+")
"""References that the converter can follow. References with a list index are resolved here, because the translation may
remove items.
"""


def for_grammar(schema: Any) -> Any:
    """Returns the schema to send, or None if `schema` allows no value at all."""
    return _Translation(schema).result()


class _Translation:
    """Each rule returns the schema's fields, or None if they allow no value."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Schema] = {}
        self._allowed: dict[str, bool] = {}

    def result(self) -> Any:
        translated = self._schema(self._root)
        if translated is None or not self._definitions:
            return translated
        return {**translated, "$defs": {**translated.get("$defs", {}), **self._definitions}}

    def _schema(self, schema: Any) -> Schema | None:
        if schema is True or schema is None:
            return {}
        if schema is False:
            return None
        if not _is_object(schema):
            return schema  # The converter refuses it with an error message.
        fields: Schema | None = {
            key: value for key, value in schema.items() if value is not None or key in NULL_MEANS_SOMETHING
        }
        for rule in (_with_whole_counts, _without_idle_bounds, self._with_definitions, self._with_reference):
            fields = rule(fields) if fields is not None else None
        for rule in (_without_contradiction, self._with_properties, self._with_items, self._with_combinations):
            fields = rule(fields) if fields is not None else None
        return fields

    def _with_definitions(self, fields: Schema) -> Schema:
        for key in DEFINITIONS:
            if _is_object(definitions := fields.get(key)):
                translated = {name: self._schema(each) for name, each in definitions.items()}
                fields[key] = {name: each for name, each in translated.items() if each is not None}
        return fields

    def _with_properties(self, fields: Schema) -> Schema | None:
        """Removes a property that allows no value, and then forbids properties that are not listed."""
        if _is_object(properties := fields.get("properties")):
            translated = {name: self._schema(each) for name, each in properties.items()}
            impossible = {name for name, each in translated.items() if each is None}
            if impossible.intersection(_list(fields.get("required"))):
                return _without_type(fields, "object")
            fields["properties"] = {name: each for name, each in translated.items() if each is not None}
            if impossible:
                fields["additionalProperties"] = False
        if _is_object(additional := fields.get("additionalProperties")):
            translated = self._schema(additional)
            fields["additionalProperties"] = False if translated is None else translated
        return fields

    def _with_items(self, fields: Schema) -> Schema | None:
        """Translates item schemas; a list has one for each position. If an item allows no value, the array must end
        before it.
        """
        for key in ("prefixItems", "items"):
            items = fields.get(key)
            if isinstance(items, list):
                places = [self._schema(each) for each in cast(list[Any], items)]
                possible = places.index(None) if None in places else len(places)
                fields[key] = places[:possible]
                if possible < len(places):
                    fields = _no_longer_than(fields, possible)
            elif items is not None:
                fields[key] = self._schema(items)
                if fields[key] is None:
                    fields = _no_longer_than(fields, len(_list(fields.get("prefixItems"))))
            if key in fields and fields[key] in (None, []):
                del fields[key]
        most = fields.get("maxItems")
        if isinstance(most, int) and fields.get("minItems", 0) > most:
            return _without_type(fields, "array")
        return fields

    def _with_combinations(self, fields: Schema) -> Schema | None:
        for key in ("anyOf", "oneOf"):
            if members := _list(fields.get(key)):
                translated = [self._schema(each) for each in members if each is not None]
                fields[key] = [each for each in translated if each is not None]
                if translated and not fields[key]:
                    return None
        if members := _list(fields.get("allOf")):
            translated = [self._schema(each) for each in members if each is not None]
            if None in translated:
                return None
            fields["allOf"] = [each for each in translated if each]
            if not fields["allOf"]:
                del fields["allOf"]
        return fields

    # ── references ──

    def _with_reference(self, fields: Schema) -> Schema | None:
        reference = fields.get("$ref")
        if not isinstance(reference, str) or not (found := self._resolve(reference)):
            return fields
        (target,) = found
        if PLAIN_REFERENCE.fullmatch(reference):
            return fields if self._allows_something(reference, target) else None
        name = self._defined(reference, target)
        return None if name is None else {**fields, "$ref": f"#/$defs/{name}"}

    def _allows_something(self, reference: str, target: Any) -> bool:
        if reference not in self._allowed:
            self._allowed[reference] = True  # Ends the recursion of a schema that refers to itself.
            self._allowed[reference] = self._schema(target) is not None
        return self._allowed[reference]

    def _defined(self, reference: str, target: Any) -> str | None:
        """Returns the name of an added definition, for a reference that the converter cannot follow."""
        if reference in self._names:
            return self._names[reference] if self._allowed[reference] else None
        name = re.sub(r"\W+", "_", reference).strip("_") or "root"
        taken = {*self._names.values(), *(self._root.get("$defs") or ())}
        while name in taken:
            name += "_"
        self._names[reference] = name
        self._allowed[reference] = True  # Ends the recursion of a schema that refers to itself.
        if target is self._root:
            target = {key: value for key, value in target.items() if key not in DEFINITIONS}
        translated = self._schema(target)
        if translated is None:
            self._allowed[reference] = False
            return None
        self._definitions[name] = translated
        return name

    def _resolve(self, reference: str) -> list[Any]:
        """Returns the referenced schema in a list; an empty list if the document does not contain it."""
        base = self._root.get("$id") if _is_object(self._root) else None
        if isinstance(base, str) and base and reference.startswith(base):
            reference = reference.removeprefix(base) or "#"
        if not reference.startswith("#"):
            return []
        fragment = unquote(reference[1:])
        if not fragment:
            return [self._root]
        if not fragment.startswith("/"):
            return [each for each in _objects(self._root) if fragment == each.get("$anchor")][:1]
        return _at(self._root, fragment[1:].split("/"))


def _with_whole_counts(fields: Schema) -> Schema:
    for key in COUNTS:
        count = fields.get(key)
        if isinstance(count, float) and count.is_integer():
            fields[key] = int(count)
    return fields


def _without_idle_bounds(fields: Schema) -> Schema:
    """Removes bounds beyond all 64-bit integers: they exclude none."""
    for key in ("minimum", "exclusiveMinimum"):
        if _is_number(bound := fields.get(key)) and bound <= LOWEST:
            del fields[key]
    for key in ("maximum", "exclusiveMaximum"):
        if _is_number(bound := fields.get(key)) and bound >= HIGHEST:
            del fields[key]
    return fields


def _without_contradiction(fields: Schema) -> Schema | None:
    if fields.get("enum") == [] or fields.get("not") in ({}, True):
        return None
    return fields


def _no_longer_than(fields: Schema, most: int) -> Schema:
    limit = fields.get("maxItems")
    return {**fields, "maxItems": min(limit, most) if isinstance(limit, int) else most}


def _without_type(fields: Schema, impossible: str) -> Schema | None:
    """Returns the schema without the type `impossible`, or None if no other type is left."""
    if isinstance(fields.get("type"), list) and (left := [each for each in fields["type"] if each != impossible]):
        keywords = ("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems")
        return {**{key: value for key, value in fields.items() if key not in keywords}, "type": left}
    return None


def _at(value: Any, path: list[str]) -> list[Any]:
    for token in path:
        name = token.replace("~1", "/").replace("~0", "~")
        if _is_object(value) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(cast(list[Any], value)):
            value = cast(list[Any], value)[int(name)]
        else:
            return []
    return [value]


def _objects(value: Any) -> Iterator[Schema]:
    if _is_object(value):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in cast(list[Any], value):
            yield from _objects(each)


def _is_object(value: Any) -> TypeGuard[Schema]:
    return isinstance(value, dict)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
