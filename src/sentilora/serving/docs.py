"""`/docs`, the routes on one plain page, and the static page at `/`; nothing from elsewhere."""

from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles


def add_docs(app: FastAPI) -> None:
    """Serve `/docs`, from the OpenAPI description."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The routes on one page."""
        return HTMLResponse(_page(app.openapi()))

    app.include_router(routes)


def add_page(app: FastAPI, folder: Path) -> None:
    """Serve the page in a folder at `/`, its other files below `/page/`."""
    index = folder / "index.html"

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The page."""
        return FileResponse(index)

    app.mount("/page", StaticFiles(directory=folder), name="page")


def _page(description: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{method.upper()}<td><code>{escape(path)}</code><td>"
        f"{escape(operation.get('description') or operation.get('summary', ''))}"
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sentilora: routes</title>'
        "<h1>Routes</h1><p>Machine-readable: <a href='openapi.json'>openapi.json</a></p>"
        f"<table><tr><th>Method<th>Path<th>What it does{''.join(rows)}</table></html>"
    )
