"""A cluster's address: refused within seconds where nobody listens, and where Ray is not installed."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from saccade.system.cluster import check_reached, connected, needs, room_for


def test_an_address_where_nobody_listens_is_refused_at_once_and_words_are_left_to_ray():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        check_reached(f"127.0.0.1:{port}")
        check_reached(f"ray://127.0.0.1:{port}")
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ValueError, match=f"no Ray cluster at '{address}'"):
            check_reached(address)
    with pytest.raises(ValueError, match="no Ray cluster"):
        check_reached("127.0.0.1:99999999999")
    for word in ("auto", "local", "nonsense:here"):
        check_reached(word)


COMMANDS = {
    "eval": ("eval", "glance", "--plan", "vskip(layers=1)"),
    "calibrate": ("calibrate", "glance", "--budget", "2"),
    "tune": ("tune", "glance", "--flops", "0.5"),
    "study": ("study", "budget", "glance"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_a_cluster_that_cannot_be_before_anything_is_opened(
    name, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def refused(*more: object) -> str:
        found = command(*COMMANDS[name], *more)
        assert found.code == 2 and "Traceback" not in found.err
        (line,) = found.err.strip().split("\n")
        return line

    assert "say how many there are in all (--processes 2)" in refused("--ray", "auto")
    assert "processes" in refused("--processes", "0")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    assert "no Ray cluster at '127.0.0.1:1'" in refused("--processes", "2", "--ray", "127.0.0.1:1")
    assert "the address of the Ray cluster is empty" in refused("--processes", "2", "--ray", " ")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'ray[data]'" in refused("--processes", "2", "--ray", "auto")
    assert not list(tmp_path.iterdir())


def test_what_cannot_share_its_work_with_a_cluster_says_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("--processes", "2", "--ray", "auto")
    assert "lmms-eval's processes are on this machine" in command("eval", "--suite", "lmms:mme", *given).err
    assert "no --ray" in command("study", "skip-vision", *given).err
    timed = command("tune", "glance", "--time", "0.5", "--processes", "2")
    assert timed.code == 2 and "where other processes would disturb it" in timed.err


def test_a_cluster_that_is_connected_already_is_taken_and_left(monkeypatch):
    ray = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with connected("nonsense") as found:
        assert found is ray


def test_an_actor_takes_accelerators_where_the_cluster_has_some():
    free = {"CPU": 7.0, "GPU": 1.0}
    nodes = [{"Alive": True, "Resources": free}]
    ray = SimpleNamespace(
        cluster_resources=lambda: free, available_resources=lambda: free, nodes=lambda: nodes
    )
    assert needs(ray, 2, 0) == {"num_cpus": 2}
    assert needs(ray, 2, 1) == {"num_cpus": 2, "num_gpus": 1}
    assert room_for(ray, {"num_cpus": 2}) == 3 and room_for(ray, {"num_cpus": 2, "num_gpus": 1}) == 1
    del free["GPU"]
    assert needs(ray, 2, 1) == {"num_cpus": 2}


def test_an_actor_asks_for_no_more_cpus_than_a_node_has():
    """It would wait for ever, also where all nodes together have them."""
    small = {"Alive": True, "Resources": {"CPU": 2.0}}
    lost = {"Alive": False, "Resources": {"CPU": 64.0}}
    ray = SimpleNamespace(nodes=lambda: [small, small, {"Alive": True, "Resources": {}}, lost])
    assert needs(ray, 3, 0) == {"num_cpus": 2} and needs(ray, 1, 0) == {"num_cpus": 1}
    # A head without CPUs of its own starts others when they are asked for.
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {}}])
    assert needs(ray, 3, 0) == {"num_cpus": 3}
