from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pmoves_mesh.agent.pidfile import PidFile, is_stale, running_pid
from pmoves_mesh.errors import StartError

HOLD_IT = """
import sys
from pathlib import Path
from pmoves_mesh.agent.pidfile import PidFile
PidFile(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path):
    return tmp_path / "agent.pid"


def test_a_held_file_names_this_process(path: Path):
    pid_file = PidFile(path)
    pid_file.acquire()
    assert running_pid(path) == os.getpid()
    assert path.read_text() == f"{os.getpid()}\n"
    assert not is_stale(path)
    pid_file.release()


def test_a_released_file_is_gone_and_can_be_taken_again(path: Path):
    pid_file = PidFile(path)
    pid_file.acquire()
    pid_file.release()
    pid_file.release()
    assert not path.exists()
    assert running_pid(path) is None
    assert not is_stale(path)
    pid_file.acquire()
    assert running_pid(path) == os.getpid()
    pid_file.release()


def test_a_second_agent_is_refused_and_the_first_keeps_the_file(path: Path):
    first = PidFile(path)
    first.acquire()
    with pytest.raises(StartError, match=f"another agent .pid {os.getpid()}. runs"):
        PidFile(path).acquire()
    assert running_pid(path) == os.getpid()
    first.release()


@pytest.mark.parametrize("text", ["1\n", "not a number\n", ""])
def test_a_file_that_nobody_holds_is_stale_whatever_it_says(path: Path, text: str):
    path.write_text(text)
    assert running_pid(path) is None
    assert is_stale(path)


def test_a_stale_file_is_taken_over(path: Path):
    path.write_text("1234567890123\n")
    pid_file = PidFile(path)
    pid_file.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    pid_file.release()


def test_a_killed_agent_leaves_a_stale_file(path: Path):
    command = [sys.executable, "-c", HOLD_IT, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert running_pid(path) == holder.pid
        assert not is_stale(path)
        holder.send_signal(signal.SIGKILL)
    assert running_pid(path) is None
    assert is_stale(path)


def test_a_program_started_by_the_agent_does_not_keep_the_file_held(path: Path):
    pid_file = PidFile(path)
    pid_file.acquire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        pid_file.release()
        path.write_text("1\n")
        assert running_pid(path) is None
        child.communicate(b"\n")


def test_a_file_in_a_missing_folder_is_refused_with_its_path(tmp_path: Path):
    with pytest.raises(StartError, match=r"cannot write the pid file .*none/agent\.pid"):
        PidFile(tmp_path / "none" / "agent.pid").acquire()
