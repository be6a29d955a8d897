"""Every field of the custom resources, from their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docs.site.markdown import WRITTEN, table
from llamadeploy_operator.models.crd import CRDS

Schema = dict[str, Any]

HEAD = """
# Custom resources: every field

Group `llamadeploy.io`, version `v1alpha1`. On a cluster `kubectl explain ldep.spec --recursive`
tells the same. A path with `[]` is that of a list's items. What has a default written here gets it
from the API server; where the text says "by default" the operator fills it in, and the object stays
as it was written. Patterns of texts are in [crds/](../../crds).
"""


def page() -> str:
    """The page: a section per kind, and in it one per part of the spec, and the status."""
    kinds = (build() for build in CRDS.values())
    return WRITTEN + HEAD + "".join(_kind(kind) for kind in kinds)


def walk(schema: Schema, path: str, required: bool = False) -> Iterator[tuple[str, Schema, bool]]:
    """``(path, schema, required)`` of all that is below ``schema``, itself first."""
    yield path, schema, required
    names = schema.get("required", ())
    for name, child in (schema.get("properties") or {}).items():
        yield from walk(child, f"{path}.{name}" if path else name, name in names)
    items = schema.get("items")
    if items and items.get("type") == "object":
        yield from list(walk(items, f"{path}[]"))[1:]


def _kind(crd: Schema) -> str:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    short = names["shortNames"][0]
    text = f"\n## {names['kind']} (`{short}`)\n\n{schema['description']}\n"
    for name, part in _parts(schema):
        text += f"\n### {short} {name}\n\n{part.get('description', '')}\n\n"
        text += table(("field", "type", "meaning"), _rows(name, part))
        text += _rules(part)
    columns = version["additionalPrinterColumns"]
    text += f"\n### {short} columns\n\n`kubectl get {short}`; the last ones with `-o wide`.\n\n"
    wide = sorted(columns, key=lambda column: column.get("priority", 0))
    return text + table(
        ("column", "value"), ((each["name"], f"`{each['jsonPath']}`") for each in wide)
    )


def _parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Large parts of the spec, then the rest of it, then the status."""
    spec = schema["properties"]["spec"]
    small = {}
    for name, child in spec["properties"].items():
        if sum(1 for _ in walk(child, name)) > 8:
            yield f"spec.{name}", child
        else:
            small[name] = child
    yield "spec", {**spec, "properties": small}
    yield "status", schema["properties"]["status"]


def _rows(name: str, part: Schema) -> Iterator[tuple[str, str, str]]:
    for path, schema, required in list(walk(part, name))[1:]:
        kind = _type(schema) + (", **required**" if required else "")
        yield f"`{path}`", kind, schema.get("description", "")


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        kind = "object, free"
    elif schema.get("type") == "array":
        kind = f"list of {schema['items'].get('type', 'object')}"
    elif "additionalProperties" in schema:
        kind = f"map of {schema['additionalProperties'].get('type', 'any')}"
    else:
        kind = schema.get("type", "any")
    return kind + "".join(_bounds(schema))


def _bounds(schema: Schema) -> Iterator[str]:
    if "enum" in schema:
        yield ": " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "minimum" in schema:
        yield f", {'>' if schema.get('exclusiveMinimum') else '>='} {schema['minimum']}"
    if "maximum" in schema:
        yield f", <= {schema['maximum']}"
    if "maxItems" in schema:
        yield f", at most {schema['maxItems']}"
    if "maxLength" in schema and schema["maxLength"] not in (253, 1024):
        yield f", at most {schema['maxLength']} characters"
    if "default" in schema:
        yield f", default `{schema['default']}`"


def _rules(part: Schema) -> str:
    """What CEL refuses, in the words that the API server says."""
    messages = [
        f"- `{path or 'spec'}`: {rule['message']}\n"
        for path, schema, _ in walk(part, "")
        for holder in (schema, *([schema["items"]] if "items" in schema else []))
        for rule in holder.get("x-kubernetes-validations", ())
    ]
    found = "".join(dict.fromkeys(messages))
    return f"\nRefused, with these words:\n\n{found}" if found else ""
