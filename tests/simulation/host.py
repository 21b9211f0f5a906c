"""A simulated host: one agent made of the real classes, which crashes, stops and starts again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders import MESH, Authority, Identity
from disk import Disk, SimStore
from trace import Trace
from virtual_time import SimClock

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.config import Config, load
