"""Generation for asyncio: one background thread waits for the engine on behalf of all coroutines.

The thread lives while there are async requests and ends with the last one. It never waits for a coroutine:
one that does not read its chunks is paused in the engine until it does. The steps of strategies run on it;
those that run a caller's code (a logits processor may take any time) run on workers of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

from gpt2 import _native
from gpt2.engine.branches import BranchEvent
from gpt2.engine.generation import Generation
from gpt2.engine.post import Post
from gpt2.engine.prompts import Ids
from gpt2.engine.requests import Key, Request
from gpt2.engine.run import Event
from gpt2.protocols import Chunk, Cut

UNREAD = 256
"""Chunks of one prompt that may wait to be read; then its generation pauses until half of them are."""

Item: TypeAlias = "tuple[int, Chunk] | BaseException"
Delivered: TypeAlias = "tuple[Key, Event | BranchEvent]"


class _Reader:
    """One coroutine that reads the chunks of one call. Touched under the dispatcher's lock, but for the
    queue, which belongs to the event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Item] = asyncio.Queue()
        self.keys: set[Key] = set()
        self.live = 0  # requests that have not ended
        self.unread = 0  # chunks that were sent and not taken out of the queue
        self.paused = False


class _Entry:
    """A request and who reads it. `busy` is held while a worker runs a step of a slow one."""

    def __init__(self, request: Request, reader: _Reader) -> None:
        self.request = request
        self.reader = reader
        self.busy = threading.Lock()


class Dispatcher:
    """All async requests of one engine."""

    def __init__(self, native: _native.Engine) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._post: Post | None = None
        self._active: dict[Key, _Entry] = {}
        self._thread: threading.Thread | None = None
        self._at_exit: Callable[[], None] = _nothing
        self._workers: ThreadPoolExecutor | None = None

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

    async def run_later(
        self, make: Callable[[], Generation], prompts: Sequence[tuple[Ids, Cut | None]]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """run() of a generation that takes long to make: on another thread, so that the loop goes on."""
        generation = await asyncio.to_thread(make)
        async with aclosing(self.run(generation, prompts)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    def _submit(
        self, generation: Generation, prompts: Sequence[tuple[Ids, Cut | None]], reader: _Reader
    ) -> None:
        with self._lock:
            if self._post is None:
                self._post = Post(self._native)
            for at, (ids, cut) in enumerate(prompts):
                request = generation.submit(self._post, at, ids, cut)
                entry = _Entry(request, reader)
                self._active |= dict.fromkeys(request.keys, entry)
                reader.keys.update(request.keys)
                reader.live += 1
                for chunk in request.start():
                    reader.unread += 1
                    reader.queue.put_nowait(chunk)
                if not request.live:
                    self._end(entry)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._drive, args=(self._post,), name="gpt2-async", daemon=True
                )
                self._thread.start()
                atexit.unregister(self._at_exit)
                self._at_exit = partial(_end_thread, weakref.ref(self), self._thread)
                atexit.register(self._at_exit)
            self._changed.notify()

    def _was_read(self, reader: _Reader) -> None:
        with self._lock:
            reader.unread -= 1
            if reader.paused and reader.unread <= UNREAD // 2:
                self._pause(reader, False)

    def _pause(self, reader: _Reader, paused: bool) -> None:
        reader.paused = paused
        for key in reader.keys:
            if self._post is not None:
                self._post.pause(key, paused)

    def _end(self, entry: _Entry) -> None:
        ended = [self._active.pop(key, None) for key in entry.request.keys]
        if ended[0] is not None:
            entry.reader.live -= 1

    def _forget(self, reader: _Reader) -> None:
        with self._lock:
            for entry in [entry for entry in self._active.values() if entry.reader is reader]:
                self._end(entry)
                if entry.busy.acquire(blocking=False):
                    entry.request.close()
                    entry.busy.release()
                elif self._post is not None:  # its worker closes it
                    for key in entry.request.keys:
                        self._post.cancel(key)
            self._changed.notify()

    def _abandon(self) -> None:
        with self._lock:
            readers = {id(entry.reader): entry.reader for entry in self._active.values()}
        for reader in readers.values():
            self._forget(reader)

    def _drive(self, post: Post) -> None:
        """The background thread."""
        while True:
            try:
                events = post.wait()
            except BaseException as error:  # whatever it is, the coroutines must not wait for ever
                self._fail(post, error)
                return
            with self._lock:
                if events:
                    self._deliver(events)
                elif not self._active:
                    self._thread = None
                    if self._workers is not None:
                        self._workers.shutdown(wait=False)
                        self._workers = None
                    return
                elif post.live == 0:  # all that there is waits for a worker
                    self._changed.wait()

    def _deliver(self, events: list[Delivered]) -> None:
        items: list[tuple[_Reader, Item]] = []
        slow: dict[Key, list[Delivered]] = {}
        for key, event in events:
            entry = self._active.get(key)
            if entry is None:
                continue
            if entry.request.slow:
                slow.setdefault(key, []).append((key, event))
            else:
                items += self._items(entry, _step(entry.request, [(key, event)]))
        for key, some in slow.items():
            if self._workers is None:
                self._workers = ThreadPoolExecutor(thread_name_prefix="gpt2-async-worker")
            self._workers.submit(self._work, self._active[key], some)
        _send(items)

    def _work(self, entry: _Entry, events: list[Delivered]) -> None:
        """A step of a slow request, on a worker's thread."""
        with entry.busy:
            got = _step(entry.request, events)
            with self._lock:
                if entry.request.keys[0] in self._active:
                    _send(self._items(entry, got))
                else:
                    entry.request.close()
                self._changed.notify()

    def _items(self, entry: _Entry, got: list[Item]) -> list[tuple[_Reader, Item]]:
        reader = entry.reader
        if not entry.request.live:
            self._end(entry)
        reader.unread += len(got)
        if reader.unread >= UNREAD and not reader.paused:
            self._pause(reader, True)
        return [(reader, item) for item in got]

    def _fail(self, post: Post, error: BaseException) -> None:
        with self._lock:
            self._thread = self._post = None
            readers = {id(entry.reader): entry.reader for entry in self._active.values()}
            self._active.clear()
            post.close()
            for reader in readers.values():
                reader.live = 0
                reader.unread += 1
                _send([(reader, error)])


def _nothing() -> None:
    pass


def _end_thread(owner: weakref.ref[Dispatcher], thread: threading.Thread) -> None:
    """At the interpreter's exit: what still runs is abandoned, and the thread ends before Python would stop
    it in the middle of native code, which ends the process. Keeps no engine alive."""
    if (dispatcher := owner()) is not None:
        dispatcher._abandon()
    thread.join()


def _step(request: Request, events: list[Delivered]) -> list[Item]:
    """What some events bring; an error ends the request, and is the last item."""
    items: list[Item] = []
    try:
        for key, event in events:
            items += request.accept(key, event)
    except Exception as error:
        items.append(error)
    return items


def _send(items: list[tuple[_Reader, Item]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Reader, Item]]] = defaultdict(list)
    for reader, item in items:
        by_loop[reader.loop].append((reader, item))
    for loop, pairs in by_loop.items():
        _put(loop, pairs)


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
