"""DNS as its clients use it: `dig`, and HAProxy that follows the SRV records of a real agent."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from agents import ROOT, AgentProcess, Mesh, eventually, mesh_in
from ports import free_port

from pmoves_mesh.settings import SETTINGS

pytestmark = pytest.mark.timeout(120)

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
DIG = shutil.which("dig")

CAPABILITIES = ["stt", "gpu:rtx5090"]

needs_dig = pytest.mark.skipif(DIG is None, reason="dig is not installed")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as running:
        yield running


@pytest.fixture
def dns_port() -> int:
    return free_port()


@pytest.fixture
def agent(mesh: Mesh, dns_port: int) -> AgentProcess:
    """An agent `jetson` that answers DNS."""
    started = mesh.started("jetson", PMOVES_DNS_PORT=str(dns_port))
    eventually(lambda: bool(started.logged("DNS is answered", port=dns_port)), "DNS is answered")
    return started


def dig(port: int, *words: str) -> str:
    """Returns what dig prints."""
    command = [str(DIG), "@127.0.0.1", "-p", str(port), "+time=5", "+tries=2", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    """Returns what the page on DNS shows in a language."""
    page = (ROOT / "docs" / "dns.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def status_of(shown: str) -> str:
    return shown.partition("status: ")[2].partition(",")[0]


@needs_dig
def test_dig_finds_a_service_by_every_name_it_has(agent: AgentProcess, dns_port: int):
    agent.register("whisper", host="10.0.0.7", port=9000, capabilities=["stt"], metadata={"model": "large"})
    for name in ("whisper.service", "stt.whisper.service", "stt.cap"):
        assert dig(dns_port, "+short", f"{name}.pmoves-mesh", "A") == "10.0.0.7\n"
    target = "0a000007.jetson.node.pmoves-mesh."
    for name in ("whisper.service", "_whisper._tcp.service", "stt.cap"):
        assert dig(dns_port, "+short", f"{name}.pmoves-mesh", "SRV") == f"1 256 9000 {target}\n"
    assert dig(dns_port, "+short", target, "A") == "10.0.0.7\n"
    text = dig(dns_port, "+short", "whisper.service.pmoves-mesh", "TXT")
    assert '"node=jetson"' in text
    assert '"model=large"' in text


@needs_dig
def test_dig_finds_the_node_both_ways_and_the_zone(agent: AgentProcess, dns_port: int):
    eventually(lambda: agent.get("/api/nodes/jetson").body["host"] == "127.0.0.1", "it announced itself")
    assert dig(dns_port, "+short", "jetson.node.pmoves-mesh") == "127.0.0.1\n"
    assert dig(dns_port, "+short", "-x", "127.0.0.1") == "jetson.node.pmoves-mesh.\n"
    assert dig(dns_port, "+short", "pmoves-mesh", "NS") == "jetson.node.pmoves-mesh.\n"
    soa = dig(dns_port, "+short", "pmoves-mesh", "SOA")
    assert soa.startswith("jetson.node.pmoves-mesh. hostmaster.pmoves-mesh. ")


@needs_dig
def test_dig_gets_the_whole_of_a_long_answer_over_tcp_and_is_told_to_over_udp(
    agent: AgentProcess, dns_port: int
):
    for number in range(60):
        agent.post(
            "/api/services", {"name": "many", "id": f"i{number}", "host": f"10.0.1.{number}", "port": 1}
        )
    name = ("many.service.pmoves-mesh", "SRV")
    assert len(dig(dns_port, "+short", *name).splitlines()) == 60
    assert len(dig(dns_port, "+short", "+tcp", *name).splitlines()) == 60
    assert "Truncated, retrying in TCP mode" in dig(dns_port, "+noedns", *name)
    for bytes_max in (512, 1232, 2000):
        shown = dig(dns_port, "+ignore", f"+bufsize={bytes_max}", *name)
        assert int(shown.partition("MSG SIZE  rcvd: ")[2].split()[0]) <= bytes_max
        assert " tc" in shown.partition("flags:")[2].partition(";")[0]


@needs_dig
def test_dig_is_told_what_there_is_not_and_for_how_long(agent: AgentProcess, dns_port: int):
    agent.register("sick", port=1, check={"type": "ttl", "ttl_s": 60})
    agent.request("PUT", "/api/services/sick/health", json={"status": "unhealthy"})
    missing = dig(dns_port, "none.service.pmoves-mesh")
    assert status_of(missing) == "NXDOMAIN"
    assert "pmoves-mesh.\t\t1\tIN\tSOA" in missing
    empty = dig(dns_port, "sick.service.pmoves-mesh")
    assert status_of(empty) == "NOERROR"
    assert "ANSWER: 0, AUTHORITY: 1" in empty
    assert status_of(dig(dns_port, "www.example.com")) == "REFUSED"
    assert status_of(dig(dns_port, "version.bind", "CH", "TXT")) == "REFUSED"


@needs_dig
def test_dig_asking_for_any_gets_something_over_udp_and_everything_over_tcp(
    agent: AgentProcess, dns_port: int
):
    agent.register("whisper", host="10.0.0.7", port=9000)
    name = "whisper.service.pmoves-mesh"
    assert "ANSWER: 1" in dig(dns_port, "+notcp", name, "ANY")
    whole = dig(dns_port, name, "ANY")
    assert all(f"IN\t{kind}" in whole for kind in ("SRV", "A", "TXT"))


@needs_dig
def test_dig_may_bring_cookies_flags_and_options_it_is_not_asked_for(agent: AgentProcess, dns_port: int):
    agent.register("whisper", host="10.0.0.7", port=9000)
    name = "whisper.service.pmoves-mesh"
    for words in (("+cookie",), ("+dnssec",), ("+nsid",), ("+subnet=192.0.2.0/24",), ("+adflag", "+cdflag")):
        assert "10.0.0.7" in dig(dns_port, *words, name)
    assert status_of(dig(dns_port, "+edns=1", "+noednsnegotiation", name)) == "BADVERS"


@needs_dig
def test_an_agent_that_never_saw_the_mesh_denies_nothing(tmp_path: Path, dns_port: int):
    nowhere = f"nats://127.0.0.1:{free_port()}"
    with AgentProcess(tmp_path, "alone", nowhere, PMOVES_DNS_PORT=str(dns_port)) as agent:
        eventually(lambda: bool(agent.logged("DNS is answered")), "DNS is answered")
        assert status_of(dig(dns_port, "none.service.pmoves-mesh")) == "SERVFAIL"
        agent.post("/api/services", {"name": "mine", "host": "10.0.0.7", "port": 9000}, wait="none")
        assert dig(dns_port, "+short", "mine.service.pmoves-mesh") == "10.0.0.7\n"


@needs_dig
def test_answers_outlive_every_server_and_the_agent_itself(mesh: Mesh, agent: AgentProcess, dns_port: int):
    mesh.started("vps").register("whisper", host="10.0.0.7", port=9000)
    eventually(lambda: agent.knows("whisper"), "it is known")
    mesh.server.kill()
    assert dig(dns_port, "+short", "whisper.service.pmoves-mesh") == "10.0.0.7\n"
    mesh.server.start()
    agent.ready().terminate()
    mesh.server.kill()
    agent.start()
    eventually(lambda: bool(agent.logged("DNS is answered")), "DNS is answered again")
    assert dig(dns_port, "+short", "whisper.service.pmoves-mesh") == "10.0.0.7\n"
    assert status_of(dig(dns_port, "none.service.pmoves-mesh")) == "NXDOMAIN"


@needs_dig
def test_how_long_an_answer_may_be_remembered_is_set(mesh: Mesh, dns_port: int):
    settings = {"PMOVES_DNS_TTL": "60", "PMOVES_DNS_NEGATIVE_TTL": "7"}
    agent = mesh.started("jetson", PMOVES_DNS_PORT=str(dns_port), **settings)
    agent.register("whisper", host="10.0.0.7", port=9000)
    assert "whisper.service.pmoves-mesh. 60\tIN\tA" in dig(dns_port, "whisper.service.pmoves-mesh")
    assert "pmoves-mesh.\t\t7\tIN\tSOA" in dig(dns_port, "none.service.pmoves-mesh")


def test_dns_is_off_where_its_port_is_0(mesh: Mesh):
    agent = mesh.started("jetson", PMOVES_DNS_PORT="0")
    agent.register("whisper", host="10.0.0.7", port=9000)
    assert not agent.logged("DNS is answered")
    assert not agent.logged("DNS is not answered")


class Replies(BaseHTTPRequestHandler):
    """Answers every request with the server's own port."""

    def do_GET(self) -> None:
        body = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def replying() -> Iterator[int]:
    """Runs a service that says on which port it is; yields that port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FRONTEND = """
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    retries 0
frontend web
    bind 127.0.0.1:{port}
    default_backend whisper
"""


@contextmanager
def haproxy(directory: Path, dns_port: int) -> Iterator[str]:
    """Runs HAProxy with what the page on DNS says; yields the URL of its frontend."""
    port = free_port()
    (followed,) = blocks("haproxy")
    config = directory / "haproxy.cfg"
    config.write_text(FRONTEND.format(port=port) + followed.replace(":8600", f":{dns_port}"))
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([str(HAPROXY), "-db", "-f", config], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


def reached(url: str) -> set[str]:
    """Returns which instances answer behind HAProxy; a failure counts as the status that it gives."""
    found = set()
    for _ in range(6):
        try:
            answer = requests.get(url, timeout=5)
        except requests.ConnectionError:
            return set()
        found.add(answer.text if answer.status_code == 200 else str(answer.status_code))
    return found


@needs_haproxy
def test_haproxy_follows_instances_as_they_come_turn_sick_and_go(
    mesh: Mesh, agent: AgentProcess, dns_port: int, tmp_path: Path
):
    with replying() as one, replying() as two, haproxy(tmp_path, dns_port) as url:
        eventually(lambda: reached(url) == {"503"}, "nobody is there yet")
        for port in (one, two):
            agent.register(
                "whisper", id=f"on-{port}", host="127.0.0.1", port=port, check={"type": "ttl", "ttl_s": 600}
            )
        eventually(lambda: reached(url) == {str(one), str(two)}, "both get requests")

        sick = agent.request("PUT", f"/api/services/whisper/health?id=on-{one}", json={"status": "unhealthy"})
        assert sick.status == 200
        eventually(lambda: reached(url) == {str(two)}, "the sick one gets none")

        agent.request("PUT", f"/api/services/whisper/health?id=on-{one}", json={"status": "healthy"})
        eventually(lambda: reached(url) == {str(one), str(two)}, "it is well again")

        agent.delete("/api/services/whisper", id=f"on-{two}")
        eventually(lambda: reached(url) == {str(one)}, "the other one is gone")

        other = mesh.started("vps", PMOVES_LEASE_TTL_S="2")
        other.register("whisper", host="127.0.0.1", port=two)
        eventually(lambda: reached(url) == {str(one), str(two)}, "the one on another node is there")
        other.kill()
        eventually(lambda: reached(url) == {str(one)}, "its node is lost, and it with that")

        agent.request("PUT", "/api/services/whisper/maintenance", json={"on": True})
        eventually(lambda: reached(url) == {"503"}, "nobody is left")


@needs_dig
def test_the_commands_of_the_page_show_what_it_says(agent: AgentProcess, dns_port: int):
    (commands,) = blocks("sh")
    typed = commands.replace("http://localhost:8100", agent.url).replace("8600", str(dns_port))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    registered, *shown = done.stdout.replace("}10.", "}\n10.").splitlines()
    assert registered.startswith('{"status":"registered"')
    target = "0a000007.jetson.node.pmoves-mesh."
    assert shown == [
        "10.0.0.7",
        f"1 256 9000 {target}",
        f'"id={agent.get("/api/services/whisper").body["id"]}" "node=jetson" "mode=docked" "model=large"',
        f"1 256 9000 {target}",
    ]


@needs_dig
def test_every_name_in_the_table_of_the_page_is_one(agent: AgentProcess, dns_port: int):
    page = (ROOT / "docs" / "dns.md").read_text()
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    agent.register("whisper", host="10.0.0.7", port=9000, ports={"metrics": 9100}, capabilities=CAPABILITIES)
    for names, meaning in rows:
        kinds = re.findall(r"\b(?:A|AAAA|SRV|TXT|PTR)\b", meaning) or ["A"]
        for name in re.findall(r"`([^`]+)`", names):
            whole = name if name.endswith("arpa") else f"{name}.pmoves-mesh"
            shown = [dig(dns_port, whole, kind) for kind in kinds]
            expected = "REFUSED" if name.endswith("arpa") else "NOERROR"
            assert {status_of(one) for one in shown} == {expected}, name
            if name.endswith("arpa"):
                continue
            assert any("ANSWER: 0" not in one for one in shown), name


def test_the_snippet_for_systemd_resolved_sends_the_mesh_to_the_agent():
    (text,) = blocks("ini")
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    assert parsed.sections() == ["Resolve"]
    address, _, port = parsed["Resolve"]["DNS"].partition(":")
    assert (address, port, parsed["Resolve"]["Domains"]) == ("127.0.0.1", "8600", "~pmoves-mesh")


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def asks_the_agent(agent: AgentProcess, port: int) -> None:
    """Checks that a resolver on a port gives the agent's answers."""
    agent.register("whisper", host="10.0.0.7", port=9000)
    name = "whisper.service.pmoves-mesh"

    def answered() -> bool:
        command = [str(DIG), "@127.0.0.1", "-p", str(port), "+short", "+time=1", "+tries=1", name]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "10.0.0.7\n"

    eventually(answered, "the resolver asks the agent")
    assert "SRV" in dig(port, name, "SRV")


@needs_dig
@pytest.mark.parametrize("number", [0, 1])
def test_dnsmasq_with_the_snippets_of_the_page_asks_the_agent(
    agent: AgentProcess, dns_port: int, tmp_path: Path, number: int
):
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
    if program is None:
        pytest.skip("dnsmasq is not installed")
    text = blocks("dnsmasq")[number].replace("8600", str(dns_port)).replace("100.101.102.103", "127.0.0.1")
    config = tmp_path / "dnsmasq.conf"
    config.write_text(text)
    port = free_port()
    with running(program, "--keep-in-foreground", f"--port={port}", "-C", config):
        asks_the_agent(agent, port)


@needs_dig
def test_coredns_with_the_snippet_of_the_page_asks_the_agent(
    agent: AgentProcess, dns_port: int, tmp_path: Path
):
    program = shutil.which("coredns")
    if program is None:
        pytest.skip("coredns is not installed")
    port = free_port()
    config = tmp_path / "Corefile"
    (text,) = blocks("corefile")
    config.write_text(text.replace("8600", str(dns_port)).replace(":53 ", f":{port} "))
    with running(program, "-conf", config):
        asks_the_agent(agent, port)


def test_each_snippet_for_a_resolver_sends_the_mesh_to_the_port_that_is_the_default():
    default = {setting.name: setting.default for setting in SETTINGS}["PMOVES_DNS_PORT"]
    snippets = [text for language in ("haproxy", "ini", "dnsmasq", "corefile") for text in blocks(language)]
    assert len(snippets) == 5
    for text in snippets:
        assert re.search(rf"127\.0\.0\.1[:#]{default}\b", text)
        assert "pmoves-mesh" in text
        assert text.count("{") == text.count("}")
