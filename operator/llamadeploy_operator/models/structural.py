"""Pydantic's JSON schema -> the structural schema that a CustomResourceDefinition takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from llamadeploy_operator.models.rules import RULES

Schema = dict[str, Any]

LIST_KEYS = {
    "InlineService": "name",
    "EnvVar": "name",
    "KeyToPath": "key",
    "Condition": "type",
    "ServiceStatus": "name",
}
"""Model -> the key that is unique in a list of them; lists of others are one value to an apply."""

INT32_MAX = 2**31 - 1

_KEPT = (
    "type", "format", "pattern", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "maxProperties", "x-kubernetes-int-or-string",
)  # fmt: skip


def structural(model: type[BaseModel]) -> Schema:
    """The schema of a model, with its descriptions and rules.

    There are no references, nulls or defaults in it: what is not required may be left out, and what
    that means stands in the descriptions. Defaults that the API server fills in look like a
    permanent difference to GitOps tools.

    Raises:
        TypeError: the model has something that a structural schema cannot say.
    """
    whole = model.model_json_schema(by_alias=True)
    return _Converter(whole.pop("$defs", {})).convert(whole, model.__name__)


class _Converter:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._rules = {model.__name__: rules for model, rules in RULES.items()}

    def convert(self, schema: Schema, name: str | None = None) -> Schema:
        """Args:
        name: the model that ``schema`` is the definition of.
        """
        schema, name = self._resolved(schema, name)
        if schema.get("x-kubernetes-int-or-string"):
            return self._int_or_string(schema)
        kind = schema.get("type")
        found: Schema = {}
        if "description" in schema:
            found["description"] = " ".join(schema["description"].split())
        found |= {key: schema[key] for key in _KEPT if key in schema}
        if "const" in schema:
            found |= {"type": "string", "enum": [schema["const"]]}
        if kind in ("integer", "number"):
            self._bounds(found, schema)
        if kind == "array":
            self._list(found, schema)
        if kind == "object":
            self._object(found, schema)
        if "type" not in found:
            raise TypeError(f"{name}: no single type in {schema}")
        if name in self._rules:
            found["x-kubernetes-validations"] = [rule.schema() for rule in self._rules[name]]
        return found

    def _resolved(self, schema: Schema, name: str | None) -> tuple[Schema, str | None]:
        """Without ``$ref`` and ``| None``; what is said beside a reference wins."""
        while "$ref" in schema or "anyOf" in schema or "allOf" in schema:
            rest = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf", "allOf")}
            if "$ref" in schema:
                name = schema["$ref"].rsplit("/", 1)[1]
                inner = self._definitions[name]
            else:
                choices = [
                    choice
                    for choice in schema.get("anyOf") or schema["allOf"]
                    if choice.get("type") != "null"
                ]
                if len(choices) != 1:
                    raise TypeError(f"{name}: a choice of types in {schema}")
                inner = choices[0]
            schema = {**inner, **rest}
        return schema, name

    @staticmethod
    def _int_or_string(schema: Schema) -> Schema:
        kept = ("description", "pattern", "maxLength", "x-kubernetes-int-or-string")
        choice = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        return {**{key: schema[key] for key in kept if key in schema}, **choice}

    @staticmethod
    def _bounds(found: Schema, schema: Schema) -> None:
        if "exclusiveMinimum" in schema:  # OpenAPI 3.0 says it with a flag
            found |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
        if found["type"] == "integer" and "format" not in found:
            found |= {"format": "int32", "maximum": found.get("maximum", INT32_MAX)}

    def _list(self, found: Schema, schema: Schema) -> None:
        items, name = self._resolved(schema["items"], None)
        found["items"] = self.convert(items, name)
        key = LIST_KEYS.get(name or "")
        if key is None:
            found["x-kubernetes-list-type"] = "atomic"
        else:
            found |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}

    def _object(self, found: Schema, schema: Schema) -> None:
        values = schema.get("additionalProperties")
        if "properties" in schema:
            found["properties"] = {
                key: self.convert(value) for key, value in schema["properties"].items()
            }
            if "required" in schema:
                found["required"] = sorted(schema["required"])
        elif isinstance(values, dict):
            found["additionalProperties"] = self.convert(values)
        elif values is True:
            found["x-kubernetes-preserve-unknown-fields"] = True
