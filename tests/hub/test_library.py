"""Facts are read in the background, once, and kept as long as they are good."""

import asyncio
import json
from dataclasses import replace

import pytest

from tests.hub.server import TOKEN, serving
from tests.reconcile.virtual import virtual
from tests.sizing.published import configs, published
from vllm_operator.api.names import Key
from vllm_operator.hub.errors import GatedModelError, HubUnavailableError, ModelNotFoundError
from vllm_operator.hub.hugging_face import HubFacts
from vllm_operator.hub.library import FIRST_RETRY, KEPT, READERS, REFUSED_KEPT, HubSource, Library, hub_reader

QWEN = "Qwen/Qwen3-8B"
SOURCE = HubSource(QWEN)


class Shelf:
    """What the hub answers, how long that takes, and what it was asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.delay = 0.1
        self.asked: list[HubSource] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, source: HubSource) -> HubFacts:
        self.asked.append(source)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return HubFacts(published(QWEN), f"commit {len(self.asked)}")


class Reader:
    """A library with virtual time, and how often it woke somebody."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.woken: list[Key] = []
        self.library = Library(self.shelf, wake=self.woken.append, clock=lambda: asyncio.get_running_loop().time())

    async def look_up(self, source: HubSource = SOURCE, name: str = "m") -> HubFacts | None:
        return await self.library.look_up(source, Key("ns", name))


@virtual
async def test_a_quick_answer_is_waited_for() -> None:
    reader = Reader()
    found = await reader.look_up()
    assert found is not None
    assert found.commit == "commit 1"
    assert await reader.look_up() == found
    assert len(reader.shelf.asked) == 1
    assert not reader.woken


@virtual
async def test_a_slow_answer_wakes_who_asked() -> None:
    reader = Reader()
    reader.shelf.delay = 20
    for name in ("a", "b", "a"):
        assert await reader.look_up(name=name) is None
    assert len(reader.shelf.asked) == 1
    await asyncio.sleep(20)
    assert sorted(reader.woken) == [Key("ns", "a"), Key("ns", "b")]
    assert await reader.look_up() is not None


@virtual
async def test_facts_grow_old_and_stay_good_while_the_hub_is_away() -> None:
    reader = Reader()
    first = await reader.look_up()
    await asyncio.sleep(KEPT + 1)
    reader.shelf.error = HubUnavailableError("away")
    assert await reader.look_up() == first
    await asyncio.sleep(1)
    assert await reader.look_up() == first
    reader.shelf.error = None
    await asyncio.sleep(FIRST_RETRY + 1)
    assert await reader.look_up() == first, "answered at once, and read again behind it"
    await asyncio.sleep(1)
    newer = await reader.look_up()
    assert newer is not None
    assert newer.commit == "commit 3"


@virtual
async def test_a_hub_that_is_away_is_asked_less_and_less() -> None:
    reader = Reader()
    reader.shelf.error = HubUnavailableError("away")
    for _ in range(600):
        with pytest.raises(HubUnavailableError):
            await reader.look_up()
        await asyncio.sleep(1)
    assert 5 <= len(reader.shelf.asked) <= 9


@pytest.mark.parametrize("error", [ModelNotFoundError("none"), GatedModelError("gated")])
@virtual
async def test_a_refusal_is_kept_for_a_minute(error: Exception) -> None:
    reader = Reader()
    reader.shelf.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            await reader.look_up()
    assert len(reader.shelf.asked) == 1
    reader.shelf.error = None
    await asyncio.sleep(REFUSED_KEPT)
    assert await reader.look_up() is not None


@virtual
async def test_a_bug_is_no_crash() -> None:
    reader = Reader()
    reader.shelf.error = KeyError("architectures")
    with pytest.raises(HubUnavailableError, match=f"{QWEN} cannot be read: KeyError"):
        await reader.look_up()


@virtual
async def test_sources_are_told_apart_by_all_that_they_have() -> None:
    reader = Reader()
    sources = [
        SOURCE,
        replace(SOURCE, revision="v1"),
        replace(SOURCE, endpoint="https://mirror.example.com"),
        replace(SOURCE, token="a"),
        replace(SOURCE, token="b"),
    ]
    for source in sources:
        await reader.look_up(source)
    assert len(reader.shelf.asked) == len(sources)


@virtual
async def test_few_are_read_at_the_same_time() -> None:
    reader = Reader()
    await asyncio.gather(*(reader.look_up(HubSource(f"a/{number}")) for number in range(50)))
    assert reader.shelf.most_at_once == READERS
    assert len(reader.shelf.asked) == 50


@virtual
async def test_closing_breaks_off() -> None:
    reader = Reader()
    reader.shelf.delay = 1000
    assert await reader.look_up() is None
    await reader.library.close()
    assert asyncio.get_running_loop().time() < 10


def test_the_token_is_kept_nowhere() -> None:
    source = HubSource(QWEN, token="hf_secret")
    assert "hf_secret" not in repr(source)
    assert not any("hf_secret" in part for part in source.fingerprint)


def test_over_http() -> None:
    """The reader that the operator uses, against a hub of its own."""

    async def main(endpoint: str) -> None:
        library = Library(hub_reader(endpoint), wake=lambda key: None)
        found = await library.look_up(HubSource("org/gated", token=TOKEN), Key("ns", "m"))
        assert found is not None
        assert found.facts.architecture == "Qwen3ForCausalLM"
        with pytest.raises(GatedModelError):
            await library.look_up(HubSource("org/gated"), Key("ns", "m"))
        with pytest.raises(ModelNotFoundError):
            await library.look_up(HubSource("org/none", endpoint=endpoint), Key("ns", "m"))
        await library.close()

    with serving() as hub:
        hub.repositories["org/gated"] = {"config.json": json.dumps(configs()[QWEN]).encode()}
        hub.gated.add("org/gated")
        asyncio.run(main(hub.url))
