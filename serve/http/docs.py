"""The page at /docs: every route with its example, and a form to try it. One file, nothing from another host."""

import json
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1c2127; }
pre, textarea { background: #f3f5f7; padding: .8rem; border-radius: .4rem; font: 13px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; }
textarea { width: 100%; min-height: 8rem; border: 1px solid #c5cbd3; box-sizing: border-box; }
h2 code { background: #e6eef8; padding: .1rem .4rem; border-radius: .3rem; }
button { font: inherit; padding: .4rem 1.2rem; margin: .5rem 0; }
"""

# The page is at <prefix>/docs, so a relative path reaches the route under any prefix.
SCRIPT = """
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const output = form.querySelector("output");
  output.textContent = "…";
  const method = form.dataset.method, body = form.querySelector("textarea")?.value;
  try {
    const reply = await fetch(form.dataset.path, {method, body, headers: body ? {"content-type": "application/json"} : {}});
    output.textContent = reply.status + "\\n" + JSON.stringify(await reply.json(), null, 1);
  } catch (error) { output.textContent = String(error); }
});
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """An OpenAPI description as a self-contained HTML page."""
    routes = [
        _route(path, method.upper(), operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    info = openapi["info"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])}</h1><p>Version {escape(info['version'])}. "
        f'Machine-readable: <a href="openapi.json">openapi.json</a>.</p>{"".join(routes)}'
        f"<script>{SCRIPT}</script></body></html>"
    )


def _route(path: str, method: str, operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    area = f"<textarea aria-label='Request body'>{_json(content['example'])}</textarea>" if "example" in content else ""
    fields = "".join(
        f"<li><code>{escape(name)}</code>: {escape(field.get('description', ''))}</li>"
        for name, field in content.get("schema", {}).get("properties", {}).items()
    )
    replies = "".join(_reply(status, reply) for status, reply in operation["responses"].items())
    return (
        f"<section><h2><code>{method} {escape(path)}</code> {escape(operation.get('summary', ''))}</h2><ul>{fields}</ul>"
        f'<form data-method="{method}" data-path="{escape(path.lstrip("/"))}">{area}<button>Send</button>'
        f"<pre><output></output></pre></form>{replies}</section>"
    )


def _reply(status: str, reply: dict[str, Any]) -> str:
    example = reply.get("content", {}).get("application/json", {}).get("example")
    shown = "" if example is None else f"<pre>{_json(example)}</pre>"
    return f"<p><b>{escape(status)}</b> {escape(reply['description'])}</p>{shown}"


def _json(value: Any) -> str:
    return escape(json.dumps(value, indent=1, ensure_ascii=False))
