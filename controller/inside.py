"""The inside of a local rack: ``python -m controller.inside JOB``, run where a kernel with netem is ours.

One process imports what all nodes need, then forks: the privileged link player, and one unprivileged process per
node, each in a network namespace of its own. It then flies the mission and writes every event as one JSON line on
standard output. Everything it makes is anonymous (namespaces belong to processes, processes die with it), so that
ending it, however, leaves nothing.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from testbed.errors import BoardError, SkyrackError
from testbed.mission import MissionPlan
from testbed.rack.base import Job, Record, resolve

AGENT = "agent.process:main"
SEAT = "agent.process:Seat"
PLAYER = "agent.player:main"


def load_job(path: Path) -> tuple[Job, dict[str, Any]]:
    """The job the host wrote, and the host's settings beside it."""
    data = json.loads(path.read_text())
    plan = MissionPlan.from_json((path.parent / data["plan"]).read_text())
    job = Job(
        run=data["run"],
        plan=plan,
        directory=Path(data["directory"]),
        strategy=data["strategy"],
        scheduler=data["scheduler"],
        mission=data["mission"],
        ahead=Path(data["ahead"]) if data["ahead"] else None,
    )
    return job, data


def main(arguments: list[str]) -> int:
    """Run one job; 0 when it ended, else the exit code of the error, which is the last event."""
    job, settings = load_job(Path(arguments[0]))
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is log, not an event

    def record(event: dict[str, Any]) -> None:
        lines.write(json.dumps(event, default=_blob) + "\n")

    try:
        result = _run(job, settings, record)
    except SkyrackError as error:
        record({"kind": "error", "error": type(error).__name__, "message": str(error), "exit": int(error.exit_code)})
        return int(error.exit_code)
    record({"kind": "result", "result": result})
    lines.flush()
    return 0


def _blob(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _run(job: Job, settings: dict[str, Any], record: Record) -> dict[str, Any]:
    from testbed.pki import RunAuthority
    from testbed.rack.namespaces import CONTROLLER_ADDRESS, NetworkSettings, Space

    authority = RunAuthority(job.run)
    owner = os.stat(sys.prefix)
    network = NetworkSettings(**job.plan.scenario.network.model_dump())
    with Space(job.plan.nodes, network) as space:
        pids: dict[str, int] = {}
        facts: list[Any] = []

        def attach(name: str, pid: int) -> None:
            facts.append(space.attach(name, pid))

        def seat_nodes(names: Sequence[str]) -> None:
            for name in names:
                seat = _call(SEAT)(
                    node=name,
                    management_address=space.addresses[name].mgmt,
                    data_address=space.addresses[name].data,
                    controller_address=CONTROLLER_ADDRESS,
                    peers={peer: a.data for peer, a in space.addresses.items()},
                    credentials=authority.issue(name),
                    clock=settings["clock"],
                    ahead=settings["ahead"],
                    work=str(_folder(Path(settings["work"]) / name, owner)),
                    uid=owner.st_uid,
                    gid=owner.st_gid,
                )
                pids[name] = _fork_in_namespace(seat, partial(attach, name))

        controller, players = socket.socketpair()
        player_pid = _fork(lambda: _call(PLAYER)(players), closes=controller)
        players.close()
        # Whoever needs less is forked sooner: a fork copies the page tables of everything imported so far.
        for stage, names in _stages(job):
            record({"kind": "stage", "stage": stage.__name__.strip("_").replace("_", " "), "mission_s": 0.0})
            stage(job)
            gc.collect()
            gc.freeze()  # a collection in a child would touch, and so copy, every shared page
            seat_nodes(names)
        pids = {name: pids[name] for name in job.plan.nodes}
        record({"kind": "nodes", "pids": pids, "mission_s": 0.0})
        site = Site(
            address=CONTROLLER_ADDRESS,
            management={name: addresses.mgmt for name, addresses in space.addresses.items()},
            data={name: addresses.data for name, addresses in space.addresses.items()},
            pids=pids,
            player_pid=player_pid,
            player=controller,
            credentials=authority.issue("controller"),
            boards=[vars(fact) for fact in facts],
        )
        return asyncio.run(_fly(job, record, settings, site))


def _folder(path: Path, owner: os.stat_result) -> Path:
    """A folder that is a node's own, which its process must not need our rights to write to."""
    path.mkdir(parents=True)
    os.chown(path, owner.st_uid, owner.st_gid)
    return path


@dataclass(frozen=True)
class Site:
    """What the forks left the controller with: addresses by node, processes, the player's channel, its credentials."""

    address: str
    management: dict[str, str]
    data: dict[str, str]
    pids: dict[str, int]
    player_pid: int
    player: socket.socket
    credentials: Any
    boards: list[dict[str, Any]]


async def _fly(job: Job, record: Record, settings: dict[str, Any], site: Site) -> dict[str, Any]:
    # Only now: these start threads, and nothing forks after this.
    from prometheus_client import start_http_server

    from controller.fleet import ProcessFleet
    from controller.keeping import make_keeper
    from controller.links import LinkPlayer
    from testbed.metrics import Metrics
    from testbed.rpc import METRICS_PORT

    player = LinkPlayer(site.player, job.plan, site.data, site.pids, site.boards, settings)
    await player.open()
    fleet = ProcessFleet(
        job,
        site.address,
        site.management,
        site.pids,
        site.credentials,
        player,
        make_keeper(settings["clock"], job.plan),
    )
    metrics = Metrics()
    metrics.describe_run(job.run, job.plan.scenario.name, job.strategy, "local")
    start_http_server(METRICS_PORT, addr=site.address, registry=metrics.registry)

    def observed(event: dict[str, Any]) -> None:
        metrics.observe(event)
        record(event)

    watcher = asyncio.get_running_loop().create_task(
        _watch({**site.pids, "the link player": site.player_pid}, fleet.lose)
    )
    mission = asyncio.ensure_future(resolve(job.mission)(fleet, job, observed))
    done, _ = await asyncio.wait({watcher, mission}, return_when=asyncio.FIRST_COMPLETED)
    for task in (watcher, mission):
        if task not in done:
            task.cancel()  # the watcher before the fleet stops: nodes end then, as they should
    result = (mission if mission in done else watcher).result()
    await fleet.stop()
    return {**result, "facts": fleet.facts()}


async def _watch(pids: dict[str, int], lose: Callable[[str, str], None]) -> dict[str, Any]:
    """Tell of each process that ends before its time, until that raises."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def tell(name: str, descriptor: int) -> None:
        loop.remove_reader(descriptor)
        gone.put_nowait((name, descriptor))

    for name, pid in pids.items():
        descriptor = os.pidfd_open(pid)
        loop.add_reader(descriptor, tell, name, descriptor)
    while True:
        name, descriptor = await gone.get()
        os.close(descriptor)
        _, status = os.waitpid(pids[name], 0)  # noqa: ASYNC222 - it has ended
        lose(name, _ending(status))


def _ending(status: int) -> str:
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"


Stage = Callable[[Job], None]


def _stages(job: Job) -> list[tuple[Stage, Sequence[str]]]:
    """What to import, then whom to fork, in this order."""
    from testbed import registry

    strategy = registry.load("strategies", job.strategy)
    registry.load("schedulers", job.scheduler)
    plan = job.plan
    with_encoder: list[str] = [*(plan.satellites if strategy.encoder_on_board else ()), plan.ground]
    return [
        (_import_agent, plan.stations),
        (_import_torch, [name for name in plan.satellites if name not in with_encoder]),
        (_import_encoder, with_encoder),
    ]


def _import_agent(job: Job) -> None:
    for module in ("agent.process", "testbed.metrics", "testbed.node.factory", "cryptography.x509"):
        importlib.import_module(module)


def _import_torch(job: Job) -> None:
    """Import and run once what satellites need."""
    from testbed.learning.runtime import make_deterministic, warm

    make_deterministic()
    warm(optimisers=job.plan.scenario.learning.mode == "u-shaped")
    # Makes the embedding once: of a model of transformers that takes seconds, which its forks need not spend again.
    importlib.import_module("testbed.learning.shard").CutMaker(job.plan.scenario, job.plan.satellites)


def _import_encoder(job: Job) -> None:
    for module in ("testbed.learning.features", "testbed.learning.appraisal"):
        importlib.import_module(module)
    if job.ahead is None:
        importlib.import_module("testbed.learning.models").open_model(job.plan.scenario.learning).encoder()


def _fork(work: Callable[[], None], closes: socket.socket | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if closes is not None:
            closes.close()
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001 - the child ends here whatever it was
        sys.stderr.write(f"{work}: {type(error).__name__}: {error}\n")
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _fork_in_namespace(seat: Any, attach: Callable[[int], None]) -> int:
    """Fork a node into a fresh namespace; it goes on once its devices are there."""
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()

    def child() -> None:
        from testbed.rack.namespaces import unshare_network

        os.close(ready_read)
        os.close(go_write)
        unshare_network()
        os.write(ready_write, b"1")
        if os.read(go_read, 1) != b"1":
            raise BoardError(f"{seat.node}: its network was never attached")
        _call(AGENT)(seat)

    pid = _fork(child)
    os.close(ready_write)
    os.close(go_read)
    try:
        if os.read(ready_read, 1) != b"1":
            raise BoardError(f"{seat.node}: its process ended before it had a network namespace")
        attach(pid)
        os.write(go_write, b"1")
    finally:
        os.close(ready_read)
        os.close(go_write)
    return pid


def _call(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
