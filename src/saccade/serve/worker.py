"""The thread that has the model: it reads what arrives, and writes all answers together, token by token."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from saccade.asking import not_finite
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.serve.asked import ChatTask, Ended, Piece
from saccade.serve.beginnings import Beginnings
from saccade.serve.choosing import Chooser
from saccade.serve.errors import RequestRefused
from saccade.serve.metrics import ServeMetrics
from saccade.serve.reader import Begun, Reader, refusal
from saccade.serve.settings import ServeLimits
from saccade.serve.speech import Speech
from saccade.serve.together import ReadPrompts, go_on, only, together

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Writing:
    """An answer that is being written."""

    begun: Begun
    chooser: Chooser
    speech: Speech
    longest: int
    first: float | None = field(default=None)

    @property
    def asked(self) -> ChatTask:
        """The request."""
        return self.begun.asked


class Worker:
    """One model, its plans, and a thread that answers.

    Attributes:
        loaded: The model.
        metrics: What is counted.
        limits: The bounds.
        reader: Reads prompts.
        kept: Beginnings of prompts that were read.
    """

    def __init__(
        self, loaded: Loaded, plans: Mapping[str, Plan], limits: ServeLimits, threads: int | None = None
    ) -> None:
        """Tries the plans, and starts the thread.

        Raises:
            ValueError: If a plan does not fit the model.
        """
        self.loaded, self.limits, self.metrics = loaded, limits, ServeMetrics()
        self.kept = Beginnings(limits.beginnings)
        self.reader = Reader(loaded, plans, self.kept, self.metrics)
        self._batch = limits.batch if self.reader.joins else 1
        self._threads = threads
        self._queue: deque[ChatTask] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future]] = deque()
        self._reading: list[ChatTask] = []
        self._writing: list[Writing] = []
        self._prompts: ReadPrompts | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="saccade-worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    def submit(self, asked: ChatTask) -> None:
        """Takes a request.

        Raises:
            RequestRefused: If too many wait already, or the server is closing.
        """
        with self._wake:
            self._check_place()
            self._queue.append(asked)
            self._wake.notify()

    def alone(self, job: Callable[[], Any]) -> Future:
        """Does something else with the model, without a plan on it, between two tokens.

        Raises:
            RequestRefused: As `submit`.
        """
        done: Future = Future()
        with self._wake:
            self._check_place()
            self._jobs.append((job, done))
            self._wake.notify()
        return done

    def _check_place(self) -> None:
        if not self.alive:
            raise RequestRefused("the server is closing", 503, retry=5)
        if len(self._queue) + len(self._jobs) >= self.limits.queue:
            raise RequestRefused(
                f"{self.limits.queue} requests wait already; come back later", 429, "queue_full", retry=1
            )

    def close(self) -> None:
        """Takes nothing more, answers what it has, and ends."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while self._wait():
                try:
                    self._turn()
                except Exception as error:
                    # Whatever it was, the next request finds an empty model.
                    self._fail(error)
        self.reader.detach()
        self.kept.clear()

    def _wait(self) -> bool:
        """Waits for something to do; False once there will be nothing more."""
        with self._wake:
            while not (self._queue or self._jobs or self._writing):
                if self._closing:
                    return False
                self.reader.detach()
                self._wake.wait()
        return True

    def _turn(self) -> None:
        """Reads what has arrived, and writes one token of every answer."""
        self._do_job()
        with self._wake:
            for asked in [one for one in self._queue if self._over(one)]:
                self._queue.remove(asked)
            places = self._batch - len(self._writing)
            taken = [self._queue.popleft() for _ in range(min(places, len(self._queue)))]
            self.metrics.queue.set(len(self._queue) + len(self._jobs))
        self._reading = taken
        for begun, prompts in self.reader.read(taken):
            self._begin(begun, prompts)
        self._reading = []
        self._keep([not self._over(one.asked) for one in self._writing])
        if self._prompts is not None:
            self._write(self._prompts)
        self.metrics.running.set(len(self._writing))

    def _do_job(self) -> None:
        with self._wake:
            job, done = self._jobs.popleft() if self._jobs else (None, None)
        if job is None or done is None or not done.set_running_or_notify_cancel():
            return
        self.reader.detach()
        try:
            done.set_result(job())
        except Exception as error:
            done.set_exception(refusal(error))

    def _over(self, asked: ChatTask) -> bool:
        """Whether nobody waits for it, or its time is over, of which it is told."""
        if not asked.gone and time.monotonic() > asked.deadline:
            asked.gone = True
            asked.tell(
                RequestRefused(f"no answer within {self.limits.seconds:g} seconds", 504, code="timeout")
            )
            self.metrics.requests.labels(asked.plan, "timeout").inc()
        elif asked.gone:
            self.metrics.requests.labels(asked.plan, "disconnected").inc()
        return asked.gone

    def _begin(self, begun: Sequence[Begun], prompts: ReadPrompts) -> None:
        """Puts answers beside those that are being written."""
        decode = self.loaded.processor.tokenizer.decode
        for one in begun:
            room = one.asked.longest if one.room is None else min(one.asked.longest, max(one.room, 1))
            self._writing.append(
                Writing(
                    one,
                    Chooser(self.loaded, one.prompt, room, one.asked.drawing),
                    Speech(lambda ids: decode(ids, skip_special_tokens=True), one.asked.stops),
                    room,
                )
            )
        self._prompts = prompts if self._prompts is None else together([self._prompts, prompts])

    def _keep(self, stays: Sequence[bool]) -> None:
        if self._prompts is None or all(stays):
            return
        which = [number for number, stay in enumerate(stays) if stay]
        self._writing = [self._writing[number] for number in which]
        self._prompts = only(self._prompts, which) if which else None

    def _write(self, prompts: ReadPrompts) -> None:
        broken_B = ~(prompts.logits_BV < math.inf).all(-1)
        # One wait for the device: -1 stands where logits are not finite.
        likeliest = prompts.logits_BV.argmax(-1).masked_fill(broken_B, -1).tolist()
        tokens, stays = [], []
        for number, one in enumerate(self._writing):
            try:
                token = likeliest[number]
                if token < 0:
                    raise RequestRefused(not_finite(self.loaded.model), 500)
                if not one.chooser.plain:
                    token = one.chooser.choose(one.speech.tokens, prompts.logits_BV[number])
            except Exception as error:
                # Its own scores: the answers beside it go on.
                self._give_up([one.asked], error)
                token, stay = -1, False
            else:
                stay = self._say(one, token)
            tokens.append(token)
            stays.append(stay)
        # Nothing has to be read for those that end.
        self._keep(stays)
        if self._prompts is not None:
            going = [token for token, stay in zip(tokens, stays, strict=True) if stay]
            self.reader.attach("")
            device = self._prompts.next_B.device
            self._prompts = go_on(self.loaded, self._prompts, torch.tensor(going, device=device))

    def _say(self, one: Writing, token: int) -> bool:
        """Tells of a token; gives whether the answer goes on."""
        asked, plan = one.asked, one.asked.plan
        self.metrics.tokens.labels(plan).inc()
        now = time.monotonic()
        piece = one.speech.add(token)
        if one.first is None:
            one.first = now
            self.metrics.first_token.labels(plan).observe(now - asked.begun)
            asked.tell(Piece(piece))
        elif piece:
            asked.tell(Piece(piece))
        count = len(one.speech.tokens)
        ended = token in one.chooser.ends or one.speech.stopped
        if not ended and count < one.longest:
            return True
        rest = one.speech.end()
        if rest:
            asked.tell(Piece(rest))
        reason = "stop" if ended else "length"
        asked.tell(Ended(reason, len(one.begun.prompt), one.begun.reused, count))
        if count > 1 and now > one.first:
            self.metrics.rate.labels(plan).observe((count - 1) / (now - one.first))
        self.metrics.requests.labels(plan, reason).inc()
        return False

    def _give_up(self, tasks: Sequence[ChatTask], error: Exception) -> None:
        told, given_up = refusal(error), dict.fromkeys(tasks)
        LOG.error("%d requests were given up", len(given_up))
        for asked in given_up:
            asked.tell(told)
            self.metrics.requests.labels(asked.plan, "failed").inc()

    def _fail(self, error: Exception) -> None:
        """Tells all whose prompts are read or whose answers are written, and forgets them."""
        self._give_up([*self._reading, *(one.asked for one in self._writing)], error)
        self._reading, self._writing, self._prompts = [], [], None
        self.metrics.running.set(0)
        with suppress(Exception):
            self.reader.detach()
