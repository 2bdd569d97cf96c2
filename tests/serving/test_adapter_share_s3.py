"""The shared store on S3, as a local server speaks it: the same promises, and what happens when it is away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.types import Member
from serving.adapter_share import SharedAdapters, ShareError, open_share
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterStore
from serving.channels import Channel
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.follow import RosterFollower
from serving.roster import Roster
from serving.scripted_engine import ScriptedEngine
from tests.serving.lora_files import admitted

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

WHERE = "s3://bucket/evomesh/adapters"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    held = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    held.start()
    host, port = held.get_host_and_port()
    settings |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_MAX_ATTEMPTS": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield settings["AWS_ENDPOINT_URL"]
    s3fs.S3FileSystem.clear_instance_cache()
    held.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def published(tmp_path: Path, value: float) -> Adapter:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch", value)
    SharedAdapters(tmp_path / "publisher", WHERE).publish(adapter.hash, run)
    return adapter


def test_a_node_fetches_from_s3_what_another_published(tmp_path: Path, server: str) -> None:
    store = SharedAdapters(tmp_path / "node", WHERE)
    assert not open_share(WHERE).holds("a" * 64)
    with pytest.raises(AdapterMissing):
        store.get("a" * 64)
    adapter = published(tmp_path, 1.0)
    assert store.get(adapter.hash).shared == WHERE
    assert store.path(adapter.hash).is_dir()
    assert len(s3fs.S3FileSystem().find(f"{WHERE}/{adapter.hash}")) == 3


def test_a_node_that_has_looked_before_sees_what_came_later(tmp_path: Path, server: str) -> None:
    store = SharedAdapters(tmp_path / "node", WHERE)
    later = admitted(AdapterStore(tmp_path / "elsewhere"), tmp_path / "scratch", 2.0)
    files = s3fs.S3FileSystem()
    files.ls(WHERE.removesuffix("/adapters"), refresh=True)
    with pytest.raises(AdapterMissing):
        store.get(later.hash)
    published(tmp_path, 2.0)
    assert store.get(later.hash).hash == later.hash


def test_two_processes_of_a_node_fetch_at_once_without_conflict(tmp_path: Path, server: str) -> None:
    adapter = published(tmp_path, 8.0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: SharedAdapters(tmp_path / "node", WHERE).get(adapter.hash), range(8)))
    assert len({one.path for one in found}) == 1


def test_a_changed_object_is_never_used_and_publishing_again_mends_it(tmp_path: Path, server: str) -> None:
    adapter = published(tmp_path, 3.0)
    files, at = s3fs.S3FileSystem(), f"{WHERE}/{adapter.hash}/{WEIGHTS}"
    files.pipe_file(at, files.cat_file(at)[:-1] + b"\x01")
    with pytest.raises(AdapterCorrupt, match="hash"):
        SharedAdapters(tmp_path / "node", WHERE).get(adapter.hash)
    SharedAdapters(tmp_path / "second", WHERE).publish(adapter.hash, AdapterStore(tmp_path / "run"))
    assert SharedAdapters(tmp_path / "node", WHERE).get(adapter.hash).hash == adapter.hash


def test_without_its_record_an_adapter_is_not_there(tmp_path: Path, server: str) -> None:
    adapter = published(tmp_path, 4.0)
    s3fs.S3FileSystem().rm_file(f"{WHERE}/{adapter.hash}/adapter.json")
    with pytest.raises(AdapterMissing):
        SharedAdapters(tmp_path / "node", WHERE).get(adapter.hash)


def test_a_bucket_that_is_not_there_is_said_as_such(tmp_path: Path, server: str) -> None:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch", 5.0)
    with pytest.raises(ShareError, match="s3://nowhere/adapters"):
        SharedAdapters(tmp_path / "publisher", "s3://nowhere/adapters").publish(adapter.hash, run)


def test_a_follower_serves_from_s3_and_keeps_its_seats_while_s3_is_away(tmp_path: Path, server: str) -> None:
    async def work() -> None:
        channel = Channel(tmp_path / "channels", "prod")
        engine = ScriptedEngine(ScriptedSpec(name="ada", family="alpha"))
        channel.promote(_roster(published(tmp_path, 6.0)))
        node = SharedAdapters(tmp_path / "node", WHERE)
        follower = RosterFollower(channel.directory, Fleet({"ada": engine}), node, poll_s=0.01, first_retry_s=0.05)
        async with follower:
            first = follower.state.roster
            second = published(tmp_path, 7.0)
            s3fs.S3FileSystem.clear_instance_cache()
            os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
            channel.promote(_roster(second))
            await _until(lambda: "cannot be fetched" in follower.state.error)
            assert follower.state.roster == first
            s3fs.S3FileSystem.clear_instance_cache()
            os.environ["AWS_ENDPOINT_URL"] = server
            await _until(lambda: follower.state.error == "")
            assert follower.state.roster == _roster(second).id
            await _until(lambda: list(engine.adapters) == [second.hash])

    asyncio.run(work())


def _roster(adapter: Adapter) -> Roster:
    seat = Member(name="g1", engine="ada", family="alpha", adapter=adapter.hash)
    base = Member(name="ada", engine="ada", family="alpha")
    return Roster(channel="prod", seats=(seat,), bases=(base,), safe="ada", source="r@1")


async def _until(is_so: object) -> None:
    assert callable(is_so)
    end = time.monotonic() + 30.0
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
