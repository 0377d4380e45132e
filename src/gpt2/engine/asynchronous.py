"""Generation for asyncio: one background thread waits for the engine on behalf of all coroutines.

The thread lives while there are async requests and ends with the last one. It never waits for a coroutine:
one that does not read its chunks is paused in the engine until it does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

from gpt2 import _native
from gpt2.engine.generation import Event, Generation, Key, Run
from gpt2.engine.prompts import Ids
from gpt2.protocols import Chunk, Cut

UNREAD = 256
"""Chunks of one prompt that may wait to be read; then its generation pauses until half of them are."""

Item: TypeAlias = "tuple[int, Chunk] | BaseException"


class _Reader:
    """One coroutine that reads the chunks of one call. Touched under the dispatcher's lock, but for the
    queue, which belongs to the event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Item] = asyncio.Queue()
        self.requests: set[int] = set()
        self.live = 0  # alternatives that have not ended
        self.unread = 0  # chunks that were sent and not taken out of the queue
        self.paused = False


class Dispatcher:
    """All async requests of one engine."""

    def __init__(self, native: _native.Engine) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._mailbox: _native.Mailbox | None = None
        self._active: dict[Key, tuple[Run, _Reader]] = {}
        self._thread: threading.Thread | None = None

    async def run(
        self, generation: Generation, prompts: Sequence[tuple[Ids, Cut | None]]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """As Generation.run(); closing the iterator, or cancelling the task, abandons the rest."""
        if generation.empty:
            for at, (ids, cut) in enumerate(prompts):
                for item in generation.nothing(at, ids, cut):
                    yield item
            return
        reader = _Reader()
        try:
            self._submit(generation, prompts, reader)
            while reader.live > 0 or reader.unread > 0:
                got = await reader.queue.get()
                self._was_read(reader)
                if isinstance(got, BaseException):
                    raise got
                yield got
        finally:
            self._forget(reader)

    def _submit(
        self, generation: Generation, prompts: Sequence[tuple[Ids, Cut | None]], reader: _Reader
    ) -> None:
        with self._lock:
            if self._mailbox is None:
                self._mailbox = _native.Mailbox(self._native)
            for at, (ids, cut) in enumerate(prompts):
                for key, run in generation.submit(self._mailbox, at, ids, cut).items():
                    self._active[key] = run, reader
                    reader.requests.add(key[0])
                    reader.live += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._drive, args=(self._mailbox,), name="gpt2-async", daemon=True
                )
                self._thread.start()

    def _was_read(self, reader: _Reader) -> None:
        with self._lock:
            reader.unread -= 1
            if reader.paused and reader.unread <= UNREAD // 2:
                self._pause(reader, False)

    def _pause(self, reader: _Reader, paused: bool) -> None:
        reader.paused = paused
        for request in reader.requests:
            if self._mailbox is not None:
                self._mailbox.pause(request, paused)

    def _forget(self, reader: _Reader) -> None:
        with self._lock:
            for key in [key for key, (_, owner) in self._active.items() if owner is reader]:
                del self._active[key]
            for request in reader.requests:
                if self._mailbox is not None:
                    self._mailbox.cancel(request)

    def _drive(self, mailbox: _native.Mailbox) -> None:
        """The background thread."""
        while True:
            try:
                events = mailbox.wait()
            except BaseException as error:  # whatever it is, the coroutines must not wait for ever
                self._fail(mailbox, error)
                return
            with self._lock:
                if events:
                    self._deliver(mailbox, events)
                elif mailbox.live == 0:
                    self._thread = None
                    return

    def _deliver(self, mailbox: _native.Mailbox, events: list[Event]) -> None:
        items: dict[asyncio.AbstractEventLoop, list[tuple[_Reader, Item]]] = defaultdict(list)
        for event in events:
            key = event[:2]
            if (entry := self._active.get(key)) is None:
                continue
            run, reader = entry
            item: Item
            try:
                item = run.prompt_index, run.accept(event)
            except Exception as error:
                item = error
            if run.finish is not None or isinstance(item, Exception):
                del self._active[key]
                mailbox.cancel(*key)
                reader.live -= 1
            reader.unread += 1
            if reader.unread >= UNREAD and not reader.paused:
                self._pause(reader, True)
            items[reader.loop].append((reader, item))
        for loop, pairs in items.items():
            _put(loop, pairs)

    def _fail(self, mailbox: _native.Mailbox, error: BaseException) -> None:
        with self._lock:
            self._thread = self._mailbox = None
            readers = {id(reader): reader for _, reader in self._active.values()}
            self._active.clear()
            mailbox.close()
            for reader in readers.values():
                reader.live = 0
                reader.unread += 1
                _put(reader.loop, [(reader, error)])


def _put(loop: asyncio.AbstractEventLoop, pairs: list[tuple[_Reader, Item]]) -> None:
    """Hand items to their coroutines; a loop that was closed has none any more."""

    def put() -> None:
        for reader, item in pairs:
            reader.queue.put_nowait(item)

    try:
        loop.call_soon_threadsafe(put)
    except RuntimeError:
        if not loop.is_closed():
            raise
