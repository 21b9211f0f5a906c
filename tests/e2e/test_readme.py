"""The README, run as it stands: only its ports are exchanged for free ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import namespaces
import pytest
from hosts import ROOT, clean_environment, listens, wait_until
from ports import free_port

from pmoves_mesh.settings import SETTINGS

README = (ROOT / "README.md").read_text()
SELF_TEST = "make test\n"


class Newcomer:
    """Somebody who types what the README says, in a clean checkout.

    Attributes:
        ports: for each port that the README names, the one that is used instead.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.ports = {"8100": free_port(), "8101": free_port(), "4222": free_port()}

    @property
    def environment(self) -> dict[str, str]:
        own = {"SERVICE_REGISTRY_PORT": self.ports["8100"], "PMOVES_NATS_PORT": self.ports["4222"]}
        return {**clean_environment(), **{name: str(port) for name, port in own.items()}}

    def translated(self, text: str) -> str:
        return re.sub(r"\b(8100|8101|4222)\b", lambda found: str(self.ports[found[0]]), text)

    def types(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.translated(commands)],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def newcomer(checkout: Path) -> Iterator[Newcomer]:
    somebody = Newcomer(checkout)
    yield somebody
    for settings in ({"PMOVES_DATA_DIR": "data-jetson"}, {}):
        environment = {**somebody.environment, **settings}
        subprocess.run(["make", "down"], cwd=checkout, env=environment, capture_output=True, check=False)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("package_index")
def test_every_command_of_the_readme_does_what_it_says(newcomer: Newcomer):
    if shutil.which("curl") is None:
        pytest.skip("no curl command is installed")
    start, self_test, two_up, ask, command_line, two_down = blocks("sh")
    assert self_test == SELF_TEST
    assert "curl -s http" in newcomer.types(start)
    assert newcomer.types(two_up).startswith("already running")
    assert '"status":"registered"' in newcomer.types(ask)
    discovered = newcomer.types(ask.splitlines()[-3])
    assert [found["name"] for found in json.loads(discovered)["services"]] == ["hi-rag"]
    register, subscribe = blocks("python")
    with Subscriber(newcomer, subscribe) as heard:
        newcomer.types(f"{sys.executable} - <<'EOF'\n{register}EOF\n")
        assert heard.line() == "registered whisper 127.0.0.1 9000"
    assert "hi-rag" in newcomer.types(command_line)
    newcomer.types(two_down)
    wait_until(lambda: not listens(newcomer.ports["4222"]), "the nats-server is gone")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("package_index")
def test_a_second_machine_joins_by_the_commands_of_the_readme(checkout: Path, tmp_path: Path):
    if problem := namespaces.problem():
        pytest.skip(problem)
    main_commands, second_commands = blocks("bash")
    with namespaces.network(2) as places:
        machines = [Machine(checkout, tmp_path / f"machine-{place.address}", place) for place in places]
        main, second = machines
        try:
            token = main.types(main_commands).splitlines()[-1]
            second.types(second_commands.replace("pmoves1-...", token))
            second.types(".venv/bin/pmoves-mesh register whisper --port 9000")
            seen = main.types(".venv/bin/pmoves-mesh services")
            assert re.search(r"whisper\t9000\tjetson\t10\.77\.0\.2:9000", seen)
            assert main.types(".venv/bin/pmoves-mesh certs revoke jetson").startswith("FINGERPRINT")
            assert "whisper" not in main.types(".venv/bin/pmoves-mesh services")
        finally:
            for machine in machines:
                machine.types("make down || true")


class Machine:
    """A machine on the network with a clone of its own, into which the dependencies are installed already."""

    def __init__(self, checkout: Path, directory: Path, place: namespaces.Namespace) -> None:
        self._directory = directory
        self._place = place
        subprocess.run(["make", ".venv/.runtime"], cwd=checkout, env=clean_environment(), check=True)
        shutil.copytree(checkout, directory, symlinks=True)
        for path in (directory / "tls").glob("[!R.]*.*"):
            path.unlink()
        for state in ("data", "data-jetson"):
            shutil.rmtree(directory / state, ignore_errors=True)

    def types(self, commands: str) -> str:
        done = subprocess.run(
            [*self._place.inside, "bash", "-euo", "pipefail", "-c", commands],
            cwd=self._directory,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout


class Subscriber:
    """The README's subscriber, as a process."""

    def __init__(self, newcomer: Newcomer, program: str) -> None:
        # It says when its subscription stands, so that nothing is registered before.
        ready = program.replace(
            "    async for", "    await client.flush()\n    print('ready')\n    async for"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", newcomer.translated(ready)], stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def __enter__(self) -> Self:
        assert self.line() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_the_readme_lists_every_setting_with_its_default():
    table = re.search(r"<!-- settings: begin -->\n(.*)<!-- settings: end -->", README, re.DOTALL)
    assert table is not None
    rows = [
        f"| `{one.name}` | {f'`{one.default}`' if one.default else ''} | {one.meaning} |" for one in SETTINGS
    ]
    assert table[1].splitlines() == ["| setting | default | |", "|---|---|---|", *rows]


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_decision_is_listed_and_there():
    folder = ROOT / "docs" / "adr"
    listed = set(re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("0*.md")}
