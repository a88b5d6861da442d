"""The schema of the JSON documents, docs/schema/bnorm.json, as tests hold documents against it."""

from __future__ import annotations

import functools
import json

import jsonschema

from support.golden import ROOT

SCHEMA = json.loads((ROOT / "docs" / "schema" / "bnorm.json").read_text(encoding="utf-8"))

PUBLISHED = jsonschema.Draft202012Validator(SCHEMA)


def closed(schema: object) -> object:
    """Return the schema with every object limited to the keys that it lists, so that a new key must be described.

    The published schema accepts other keys, as a later version of bnorm may add some.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    limit = {"additionalProperties": False} if "properties" in schema and "required" in schema else {}
    return {key: closed(item) for key, item in schema.items()} | limit


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    definitions = closed(SCHEMA["$defs"])
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def validate(document: object, command: str) -> None:
    """Raise jsonschema.ValidationError unless this is a document of the command, or that of an error."""
    failed = isinstance(document, dict) and document.keys() == {"error"}
    validator("error" if failed else command).validate(document)
