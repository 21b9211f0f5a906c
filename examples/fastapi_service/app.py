"""A FastAPI service that is in the mesh for as long as it serves, and calls others through it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from pmoves_mesh import Mesh
from pmoves_mesh.errors import ServiceNotFound

PORT = int(os.environ.get("PORT", "9000"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Joins the mesh when the server starts, and leaves it when it stops."""
    async with Mesh.connect() as mesh, mesh.register("greeter", port=PORT, capabilities=["greet"]):
        app.state.mesh = mesh
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/greet/{name}")
async def greet(name: str) -> dict[str, str]:
    """Greets somebody."""
    return {"greeting": f"Hello, {name}!"}


@app.get("/where/{service}")
async def where(service: str, request: Request) -> dict[str, str]:
    """Tells where a call to another service would go: from memory, with no network."""
    mesh: Mesh = request.app.state.mesh
    try:
        return {"url": mesh.resolve(service).url()}
    except ServiceNotFound:
        raise HTTPException(404, f"nobody offers {service}") from None


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
