"""The OpenAPI document as a page that needs nothing from elsewhere, not even a script."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}
_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border-top: 1px solid #8886; padding: .4rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
"""
_BOUNDS: Final = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("maxLength", "characters at most"),
    ("maxItems", "items at most"),
)
Schema = Mapping[str, Any]


def page(document: Schema) -> str:
    """HTML of an OpenAPI document."""
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    operations = "".join(_operations(document["paths"]))
    schemas = "".join(_schemas(document["components"]["schemas"]))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>The same as <a href="/openapi.json">an OpenAPI document</a>, for programs.</p>
<h2>Calls</h2>
{operations}
<h2>Bodies</h2>
{schemas}
</body>
</html>
"""


def _operations(paths: Schema) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<details><summary><code>{method.upper()} {escape(path)}</code> "
            yield f"{escape(operation.get('summary', ''))}</summary>"
            yield f"<p>{escape(operation.get('description', ''))}</p><table>"
            yield "".join(_contents("body", operation.get("requestBody", {})))
            for status, answer in operation["responses"].items():
                yield "".join(_contents(status, answer))
            yield "</table></details>"


def _contents(name: str, holder: Schema) -> Iterator[str]:
    for kind, content in holder.get("content", {}).items():
        yield f"<tr><td>{escape(name)}</td><td><code>{escape(kind)}</code></td>"
        yield f"<td>{_type(content.get('schema', {}))}</td></tr>"


def _schemas(schemas: Schema) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        yield f"<p>{escape(schema.get('description', ''))}</p><table>"
        required = schema.get("required", ())
        for field, its in schema.get("properties", {}).items():
            mark = "required" if field in required else ""
            yield f"<tr><td><code>{escape(field)}</code></td><td>{_type(its)}</td>"
            yield f"<td>{mark}</td><td>{escape(its.get('description', ''))}{_bounds(its)}</td></tr>"
        yield "</table></details>"


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#{name}"><code>{name}</code></a>'
    if "const" in schema:
        return f"<code>{escape(repr(schema['const']))}</code>"
    if "enum" in schema:
        return f"<code>{escape(', '.join(map(repr, schema['enum'])))}</code>"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(map(_type, schema[union]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return f"<code>{escape(schema.get('type', 'any'))}</code>"


def _bounds(schema: Schema) -> str:
    said = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
    return escape(f" ({', '.join(said)})" if said else "")
