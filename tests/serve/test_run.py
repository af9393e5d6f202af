"""The program: it says where it listens, and ends when it is told to, with what it has taken answered."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import openai
import pytest

from saccade.serve import run
from saccade.serve.settings import ServeSettings
from serve.serving import message, picture
from support.programs import start
from support.toy import build_toy


def test_a_termination_is_heard_from_the_moment_on_that_the_server_says_it_is_there():
    settings, late = ServeSettings(port=0), []

    def again():
        late.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(20, again)
    timer.start()
    try:
        listening = run.listen(settings)
        run.serve(build_toy(), {}, settings, listening, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        timer.cancel()
    assert not late, "the first was lost"


@pytest.mark.e2e
def test_a_termination_lets_answers_end_and_takes_no_more(toy_folder, tmp_path):
    plan = "quick=vskip(layers=0-3)"
    server = start(
        "-m", "saccade", "serve", toy_folder, "--port", 0, "--plan", plan, "--device", "cpu", cwd=tmp_path
    )
    limit = time.monotonic() + 240
    while not (found := re.search(r"at (http://127\.0\.0\.1:\d+)", server.said())):
        assert time.monotonic() < limit
        time.sleep(0.05)
    with openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0) as client:
        names = [one.id for one in client.models.list()]
        assert len(names) == 2 and names[1] == f"{names[0]}@quick"
        asked = {"model": names[1], "messages": [message("red ?", picture(1))], "max_tokens": 400}
        whole = client.chat.completions.create(**asked)
        assert whole.usage.completion_tokens > 100, "long enough to be ended in the middle"
        pieces = iter(client.chat.completions.create(**asked, stream=True))
        text = next(pieces).choices[0].delta.content
        os.kill(server.pid, signal.SIGTERM)
        text += "".join(one.choices[0].delta.content or "" for one in pieces)
    assert text == whole.choices[0].message.content
    left = server.ended(60)
    assert left.code == 0 and left.err.count("Traceback") == 0, left.err
    with pytest.raises(openai.APIConnectionError):
        client.with_options(max_retries=0, http_client=openai.DefaultHttpxClient()).models.list()
