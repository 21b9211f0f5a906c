"""`pmoves-mesh top` in a real terminal, fed by real agents: what it shows, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from ports import free_port
from terminal_support import CURSOR_SHOWN, ENTERED, LEFT, OWN, Terminal

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module")
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))


@pytest.fixture(scope="module")
def beta(mesh: Mesh, alpha: AgentProcess) -> AgentProcess:
    agent = mesh.started("beta")
    agent.register("whisper", id="1", port=9000, capabilities=["stt"])
    agent.register("rag", id="1", port=9001)
    eventually(lambda: alpha.knows("whisper") and alpha.knows("rag"), "alpha knows what beta has")
    return agent


@contextmanager
def top(
    agent: AgentProcess, *arguments: str, size: tuple[int, int] = (80, 24), **settings: str
) -> Iterator[Terminal]:
    port = agent.url.rpartition(":")[2]
    environment = {**agent.environment, "SERVICE_REGISTRY_PORT": port, **settings}
    with Terminal([*agent.program, "top", *arguments], environment, agent.directory, size) as terminal:
        yield terminal


TRIES = 3
"""The machine may be busy with other tests now and then, but not every time."""


def names(terminal: Terminal) -> list[str]:
    """Returns the first word of each line of the list."""
    lines = terminal.drawn
    begin = next(number for number, line in enumerate(lines) if line.startswith(("SERVICE", "NODE")))
    return [line.split()[0] for line in lines[begin + 1 : -1] if line]


def assert_given_back(terminal: Terminal) -> None:
    """The terminal is as it was: its modes, its screen and its cursor."""
    assert terminal.modes == terminal.modes_before
    assert terminal.text.count(ENTERED) == terminal.text.count(LEFT) > 0
    assert terminal.text.rindex(CURSOR_SHOWN) > terminal.text.rindex("\x1b[?25l")


def test_a_service_registered_on_another_node_appears_within_a_second_without_a_key(
    alpha: AgentProcess, beta: AgentProcess
):
    with top(alpha) as terminal:
        terminal.shows("whisper", "2 nodes", "alpha of mesh pmoves-mesh")
        took_s = []
        for _ in range(TRIES):
            beta.register("jellyfin", id="1", port=8096)
            took_s.append(terminal.shows("jellyfin"))
            beta.delete("/api/services/jellyfin")
            took_s.append(terminal.until(lambda: "jellyfin" not in names(terminal), "it disappears"))
        note(f"a service of another node came and went within {sorted(took_s)} s of the answers")
        assert sorted(took_s)[TRIES] < 1.0


def test_s_sorts_by_the_next_column_and_r_the_other_way_round(alpha: AgentProcess, beta: AgentProcess):
    beta.register("aaa", id="9", port=9)
    with top(alpha) as terminal:
        terminal.shows("by SERVICE", "aaa")
        assert names(terminal) == ["aaa", "rag", "whisper"]
        terminal.press("r")
        terminal.until(lambda: names(terminal) == ["whisper", "rag", "aaa"], "it is the other way round")
        terminal.press("s")
        terminal.shows("by ID")
        terminal.until(lambda: names(terminal)[-1] == "aaa", "it is sorted by id")
    beta.delete("/api/services/aaa")


def test_an_unhealthy_instance_comes_first_by_state(alpha: AgentProcess, beta: AgentProcess):
    beta.register("sick", id="1", port=9, check={"type": "ttl", "ttl_s": 600})
    beta.request("PUT", "/api/services/sick/health", json={"status": "unhealthy", "output": "no"})
    with top(alpha) as terminal:
        terminal.shows("sick", "1 unhealthy")
        terminal.press("ssss")
        terminal.shows("by STATE")
        terminal.until(lambda: names(terminal)[0] == "sick", "it is first")
    beta.delete("/api/services/sick")


def test_a_filter_shows_what_has_all_its_words_until_it_is_cleared(alpha: AgentProcess, beta: AgentProcess):
    del beta
    with top(alpha) as terminal:
        terminal.shows("whisper", "rag")
        terminal.press("/9000 WHI")
        terminal.shows("1 of 2 services", "filter: 9000 WHI_")
        terminal.press("\r")
        terminal.shows("filter: 9000 WHI", "q quit")
        assert names(terminal) == ["whisper"]
        terminal.press("\x1b")
        terminal.until(lambda: names(terminal) == ["rag", "whisper"], "all are there again")


def test_q_within_a_filter_is_a_letter(alpha: AgentProcess, beta: AgentProcess):
    del beta
    with top(alpha) as terminal:
        terminal.shows("whisper")
        terminal.press("/q")
        terminal.shows("filter: q_", "0 of 2 services")
        terminal.press("\x7f\rq")
        assert terminal.ended() == 0


def test_the_nodes_are_shown_with_their_load_and_a_loss_as_the_agent_knows_it(
    mesh: Mesh, alpha: AgentProcess
):
    gamma = mesh.started("gamma", PMOVES_LEASE_TTL_S="2")
    with top(alpha, size=(100, 24)) as terminal:
        terminal.press("2")
        terminal.shows("gamma", "CPU", "RESOURCES")
        terminal.until(lambda: any("%" in line for line in terminal.drawn), "loads are known")
        gamma.kill()
        eventually(lambda: alpha.get("/api/nodes/gamma").body["status"] == "lost", "gamma is lost")
        terminal.shows("1 lost")


def test_arrows_and_letters_move_over_more_rows_than_there_is_room_for(
    alpha: AgentProcess, beta: AgentProcess
):
    ids = [f"{number:02}" for number in range(30)]
    for each in ids:
        beta.register("many", id=each, port=7000 + int(each))
    try:
        move_through_many(alpha)
    finally:
        for each in ids:
            beta.delete("/api/services/many", id=each)


def move_through_many(alpha: AgentProcess) -> None:
    with top(alpha, size=(80, 12)) as terminal:
        terminal.shows("32 services", "many")
        assert len(terminal.drawn) == 12
        terminal.press("\x1b[B" * 10 + "jj")
        terminal.until(lambda: "12" in row_under_cursor(terminal), "the cursor is on the twelfth")
        terminal.press("k\x1bOA")
        terminal.until(lambda: "10" in row_under_cursor(terminal), "it went back by two")
        terminal.press("G")
        terminal.shows("whisper")
        terminal.press("\x1b[H")
        terminal.until(lambda: "00" in row_under_cursor(terminal), "it is at the top")


def row_under_cursor(terminal: Terminal) -> str:
    """Returns the row that is drawn in reverse, below the headings."""
    frame = terminal.frame.split("\r\n")
    begin = next(number for number, line in enumerate(frame) if "SERVICE" in line and "\x1b[7m" in line)
    return next((line for line in frame[begin + 1 :] if "\x1b[7m" in line), "")


def test_another_size_is_taken_up_at_once_whatever_the_environment_says(
    alpha: AgentProcess, beta: AgentProcess
):
    del beta
    with top(alpha, COLUMNS="80", LINES="24") as terminal:
        terminal.shows("ADDRESS")
        terminal.resize(120, 30)
        terminal.shows("CAPABILITIES", "stt")
        assert len(terminal.drawn) == 30
        for size in ((40, 10), (20, 5), (9, 3), (1, 1)):
            terminal.resize(*size)
            terminal.until(lambda: bool(terminal.drawn), f"{size} is drawn")
            assert max(map(len, terminal.drawn)) <= size[0]
        terminal.resize(80, 24)
        terminal.shows("ADDRESS", "whisper")
        terminal.press("q")
        assert terminal.ended() == 0


def test_names_and_metadata_never_steer_the_terminal(alpha: AgentProcess, mesh: Mesh):
    sly = mesh.agent("delta", NODE_CAPABILITIES="gpu").start().ready()
    sly.register(
        "sly",
        port=9,
        capabilities=["stt"],
        metadata={"note": "\x1b]0;owned\x07\x1b[2J"},
        check={"type": "ttl", "ttl_s": 600},
    )
    sly.request("PUT", "/api/services/sly/health", json={"status": "unhealthy", "output": "\x1b[31m\x07red"})
    with top(alpha, size=(200, 24)) as terminal:
        terminal.shows("sly", "unhealthy")
        terminal.press("/\x07\x01x")
        terminal.shows("filter: x_")
        terminal.press("\x1b23q")
        assert terminal.ended() == 0
        assert "\x1b" not in OWN.sub("", terminal.text)
        assert "\x07" not in terminal.text


def test_q_ends_it_and_the_terminal_is_as_it_was(alpha: AgentProcess):
    with top(alpha) as terminal:
        terminal.shows("SERVICE")
        assert terminal.modes != terminal.modes_before
        terminal.press("q")
        assert terminal.ended() == 0
        assert_given_back(terminal)


def test_ctrl_c_ends_it_like_q(alpha: AgentProcess):
    with top(alpha) as terminal:
        terminal.shows("SERVICE")
        terminal.press("\x03")
        assert terminal.ended() == 0
        assert_given_back(terminal)
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(alpha: AgentProcess, number: signal.Signals):
    with top(alpha) as terminal:
        terminal.shows("SERVICE")
        terminal.send(number)
        assert terminal.ended() == 128 + number
        assert_given_back(terminal)


def test_a_terminal_that_is_gone_ends_it(alpha: AgentProcess):
    with top(alpha) as terminal:
        terminal.shows("SERVICE")
        terminal.hang_up()
        assert terminal.ended() == 128 + signal.SIGHUP


def test_ctrl_z_gives_the_terminal_back_until_it_is_continued(alpha: AgentProcess):
    with top(alpha) as terminal:
        terminal.shows("SERVICE")
        terminal.press("\x1a")
        terminal.until(lambda: terminal.state == "T" and LEFT in terminal.text, "it is stopped")
        assert_given_back(terminal)
        terminal.resume()
        terminal.until(lambda: terminal.text.count(ENTERED) == 2, "it draws again")
        terminal.press("q")
        assert terminal.ended() == 0
        assert_given_back(terminal)


def test_an_error_of_ours_is_one_line_below_a_terminal_as_it_was(alpha: AgentProcess, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(
        "import pmoves_mesh.cli.top.drawing as drawing\n"
        "def fail(*_): raise RuntimeError('no pencil')\n"
        "drawing.draw = fail\n"
    )
    path = os.pathsep.join([str(tmp_path), alpha.environment["PYTHONPATH"]])
    with top(alpha, PYTHONPATH=path) as terminal:
        assert terminal.ended() == 1
        assert_given_back(terminal)
        assert "a bug, please report it: RuntimeError: no pencil" in terminal.text.rpartition(LEFT)[2]


def test_an_agent_that_goes_is_said_at_once_and_so_is_its_return(mesh: Mesh):
    epsilon = mesh.started("epsilon", SERVICE_REGISTRY_PORT=str(free_port()))
    epsilon.register("kept", port=9)
    with top(epsilon) as terminal:
        terminal.shows("kept")
        epsilon.kill()
        terminal.shows("NO ANSWER", "kept")
        epsilon.restart()
        terminal.until(lambda: not any("NO ANSWER" in line for line in terminal.drawn), "it answers again")
        epsilon.register("later", port=10)
        terminal.shows("later")


def test_a_replica_that_is_cut_off_says_so(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        agent = mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))
        agent.register("whisper", port=9000)
        with top(agent) as terminal:
            terminal.shows("whisper")
            mesh.server.kill()
            eventually(lambda: not agent.is_ready(), "the agent notices")
            terminal.shows("STALE: this agent has been cut off from the mesh for", "whisper")
            mesh.server.start()
            terminal.until(lambda: not any("STALE" in line for line in terminal.drawn), "it is current again")


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_gets_one_table(
    alpha: AgentProcess, beta: AgentProcess, kind: str
):
    del beta
    with top(alpha, TERM=kind) as terminal:
        assert terminal.ended() == 0
        assert "whisper" in terminal.text
        assert "\x1b" not in terminal.text


def test_without_a_terminal_it_prints_the_services_once(alpha: AgentProcess, beta: AgentProcess):
    del beta
    done = alpha.run("top")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SERVICE\tID\tNODE\t")
    assert "whisper\t1\tbeta\t" in done.stdout
    as_json = alpha.run("top", "--json")
    assert '"whisper"' in as_json.stdout


def test_a_reader_that_has_enough_ends_it_quietly(alpha: AgentProcess, beta: AgentProcess):
    del beta
    words = " ".join(alpha.program)
    environment = {**alpha.environment, "SERVICE_REGISTRY_PORT": alpha.url.rpartition(":")[2]}
    done = subprocess.run(
        ["sh", "-c", f"{words} top | true; {words} top --json | head -n 1"],
        cwd=alpha.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_an_agent_it_fails_with_one_line(alpha: AgentProcess):
    with top(alpha, SERVICE_REGISTRY_PORT=str(free_port())) as terminal:
        assert terminal.ended() == 1
        assert ENTERED not in terminal.text
        assert terminal.text.startswith("pmoves-mesh: no agent answers at")
        assert len(terminal.text.splitlines()) == 1
