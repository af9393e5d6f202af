"""The server as clients meet it: OpenAI's own, and those that mean harm."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from functools import partial

import openai
import pytest
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from saccade import models
from saccade.inputs.prompts import most_positions
from saccade.plans.plan import Plan
from saccade.serve.app import build
from saccade.serve.chat import EventStream
from saccade.serve.conversation import CHARACTERS
from saccade.serve.settings import ServeLimits, ServeSettings
from serve.serving import LONGEST, PLANS, data_url, message, picture, started
from support.toy import build_toy

ASK = "what color is the circle ?"


def body(**fields):
    return {"model": "toy", "messages": [message(ASK, picture(1))], **fields}


def test_models_are_the_model_and_its_plans(client):
    assert [one.id for one in client.models.list()] == ["toy", *(f"toy@{name}" for name in PLANS)]
    assert client.models.retrieve("toy@vskip").owned_by == "saccade"


@pytest.mark.parametrize("plan", ["", "vskip", "prune", "fastv"])
def test_an_answer_is_that_of_offline_whole_and_in_pieces(plan, client, offline):
    model = f"toy@{plan}" if plan else "toy"
    asked = {"model": model, "messages": [message(ASK, picture(1), picture(2))]}
    want = offline(ASK, (picture(1), picture(2)), plan)
    whole = client.chat.completions.create(**asked)
    choice = whole.choices[0]
    assert choice.message.content == want and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and whole.model == model
    used = whole.usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens and used.prompt_tokens >= 32
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].delta.content or "" for one in parts[:-1]) == want
    assert parts[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in parts[:-1]][-1] == choice.finish_reason
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == used.completion_tokens
    assert len({one.id for one in parts}) == 1
    # As OpenAI has it: null until the end where it is asked for, and else not there.
    assert {one.to_dict().get("usage", "absent") for one in parts[:-1]} == {None}
    bare = list(client.chat.completions.create(**asked, stream=True))
    assert {one.to_dict().get("usage", "absent") for one in bare} == {"absent"}


def test_a_conversation_is_the_template_s(client):
    other = build_toy()
    said = [
        message("is there a ring ?", picture(5)),
        {"role": "assistant", "content": "yes"},
        message("and the circle ?", picture(6)),
    ]
    found = (
        client.chat.completions.create(model="toy", messages=said, max_tokens=5).choices[0].message.content
    )
    text = models.chat_prompt(
        other,
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a ring ?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and the circle ?"}]},
        ],
    )
    batch = models.encode(other, [text], [picture(5), picture(6)])
    made = other.model.generate(**batch, **models.greedy(5))
    assert found == models.answers(other, made, batch["input_ids"].shape[1])[0]


def test_an_answer_is_taken_back_as_it_was_given(client):
    first = client.chat.completions.create(model="toy", messages=[message("red ?", picture(5))])
    given = first.choices[0].message
    said = [message("red ?", picture(5)), given, message("and the circle ?")]
    plain = [said[0], {"role": "assistant", "content": given.content}, said[2]]
    whole = [said[0], given.model_dump(), said[2]]
    found = {
        client.chat.completions.create(model="toy", messages=one).choices[0].message.content
        for one in (said, plain, whole)
    }
    assert len(found) == 1


FIRST_PART = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] + ' ' }}{% else %}"
    "{% for c in m['content'] %}{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}"
)
STRINGS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{% for c in m['content'] %}"
    "{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}"
    "{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
)
USERS = (
    "{% for m in messages if m['role'] == 'user' %}{% for c in m['content'] %}"
    "{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("template", [FIRST_PART, STRINGS], ids=["first part", "strings"])
def test_templates_get_messages_in_the_form_that_they_read_whole(template, worker, client, monkeypatch):
    """As Gemma 3's, LLaVA-NeXT's (the first part of what a system says) and Pixtral's (strings) do."""
    monkeypatch.setattr(worker.loaded.processor, "chat_template", template)
    seen = []
    monkeypatch.setattr(
        worker, "submit", lambda asked, real=worker.submit: (seen.append(asked.text), real(asked))
    )
    parts = [{"type": "text", "text": one} for one in ("red circle", "blue ring")]
    said = [{"role": "system", "content": parts}, message("is there a ring ?", picture(5))]
    said += [{"role": "assistant", "content": "<think>no square</think> yes"}, message("and the circle ?")]
    assert client.chat.completions.create(model="toy", messages=said).choices[0].message.content
    for text in ("red circle", "blue ring", "is there a ring ?", "yes", "and the circle ?", "<image>"):
        assert seen[0].count(text) == 1, (text, seen)


def test_what_a_template_leaves_out_is_not_answered_without(worker, client, monkeypatch):
    monkeypatch.setattr(worker.loaded.processor, "chat_template", USERS)
    said = [message("is there a ring ?"), {"role": "assistant", "content": "yes"}, message("red ?")]
    with pytest.raises(openai.BadRequestError, match=r"messages\.1\.content: .* leaves its text out"):
        client.chat.completions.create(model="toy", messages=said)
    assert client.chat.completions.create(model="toy", messages=said[:1]).choices


def test_stops_and_lengths_end_an_answer(client, offline):
    want = offline(ASK, (picture(1),)).split()
    assert len(set(want)) > 1, "an answer with several words"
    stop = next(word for word in want if word != want[0])
    asked = {"model": "toy", "messages": [message(ASK, picture(1))]}
    found = client.chat.completions.create(**asked, stop=stop).choices[0]
    assert found.finish_reason == "stop"
    assert found.message.content == " ".join(want).split(stop)[0].strip()
    short = client.chat.completions.create(**asked, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2


def test_threads_of_clients_are_answered_as_each_alone(client, offline):
    questions = ["red ?", "is there a ring ?", ASK, "how many ?"]
    found = []

    def ask(number):
        for turn in range(3):
            plan = ["", *PLANS][(number + turn) % 6]
            question, seed = questions[(number + turn) % 4], number % 3
            model = f"toy@{plan}" if plan else "toy"
            got = client.chat.completions.create(model=model, messages=[message(question, picture(seed))])
            found.append((question, seed, plan, got.choices[0].message.content))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert len(found) == 18
    for question, seed, plan, got in found:
        assert got == offline(question, (picture(seed),), plan)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gpt"}, 404, "model_not_found"),
        ({"model": "toy@plan.json"}, 404, "model_not_found"),
        ({"model": "toy@"}, 404, "model_not_found"),
        ({"max_tokens": LONGEST + 1}, 400, "invalid_value"),
        ({"messages": [message(ASK, *map(picture, range(4)))]}, 400, None),
        ({"messages": [{"role": "user", "content": "<image> red ?"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
        ({"messages": [message("red " * 5000)]}, 400, "invalid_prompt"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openai_s_form(fields, status, code, web):
    response = web.post("/v1/chat/completions", content=json.dumps(body(**fields)), headers=JSON)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert "\n" not in error["message"] and len(error["message"]) <= 500
    assert "from a shell" not in error["message"], "what only the command line can do"


@pytest.mark.parametrize("halves", [("<ima", "ge> red ?"), ("red <image", "> ?")])
def test_parts_that_are_a_placeholder_together_are_refused_as_one_is(halves, web):
    parts = [{"type": "text", "text": half} for half in halves]
    # Also where a picture stands between them, for templates may write pictures first.
    for content in (parts, [parts[0], *message("", picture(1))["content"][:1], parts[1]]):
        response = web.post(
            "/v1/chat/completions", json=body(messages=[{"role": "user", "content": content}])
        )
        error = response.json()["error"]
        assert response.status_code == 400 and error["param"] == "messages.0.content"
        assert "which this model reads as a picture" in error["message"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_is_refused_by_the_name_that_it_was_given(name, client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**body(), **{name: LONGEST + 1})
    assert refused.value.param == name and f"{name} is at most" in str(refused.value)


def test_a_text_that_no_model_could_read_is_not_made_tokens_of(worker, web, monkeypatch):
    most = most_positions(worker.loaded.model.config)
    # Nothing of it comes to the model's thread.
    monkeypatch.setattr(worker, "submit", lambda asked: pytest.fail("submitted"))
    for text in ("r" * (most * CHARACTERS + 1), "red " * (most * CHARACTERS // 4)):
        response = web.post("/v1/chat/completions", json=body(messages=[message(text)]))
        assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_prompt"
        assert "positions" in response.json()["error"]["message"]


def test_control_characters_are_text_like_any_other(web):
    asked = body(messages=[message("red \u0000\u001b[2J\u200b ?", picture(1))])
    assert web.post("/v1/chat/completions", json=asked).status_code == 200


def test_openai_s_client_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=[message(ASK)])
    with pytest.raises(openai.BadRequestError, match="not served"):
        client.chat.completions.create(model="toy", messages=[message(ASK)], n=3)


def test_only_json_is_read_and_no_more_than_allowed(worker):
    app = build(worker, ServeSettings(limits=ServeLimits(body=2000, tokens=LONGEST)))
    with TestClient(app, base_url="http://localhost") as web:
        post = "/v1/chat/completions"
        assert web.post(post, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
        assert web.post(post, content=b"{" * 2001, headers=JSON).status_code == 413
        chunks = (b"{" * 100 for _ in range(30))
        assert web.post(post, content=chunks, headers=JSON).status_code == 413
        assert web.post(post, content=b"{}", headers=JSON).status_code == 400
        assert web.get("/v2").json()["error"]["type"] == "invalid_request_error"
        wrong = web.get(post)
        assert wrong.status_code == 405 and wrong.headers["Allow"] == "POST"


def test_a_key_is_asked_for_everywhere_but_at_the_door(worker):
    app = build(worker, ServeSettings(key="secret", limits=worker.limits))
    with TestClient(app, base_url="http://localhost") as web:
        for path in ("/v1/models", "/metrics", "/v1/models/toy"):
            assert web.get(path).status_code == 401
            assert web.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert web.get(path, headers={"Authorization": "Basic secret"}).status_code == 401
            assert web.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert web.post("/compare", json={}).status_code == 401
        assert web.post("/v1/chat/completions", json=body()).status_code == 401
        assert web.get("/health").status_code == web.get("/").status_code == 200
        good = openai.OpenAI(base_url="http://localhost/v1", api_key="secret", http_client=web)
        assert good.chat.completions.create(**body()).choices[0].message.content
        bad = openai.OpenAI(base_url="http://localhost/v1", api_key="no", http_client=web)
        with pytest.raises(openai.AuthenticationError):
            bad.models.list()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "0x7f.1"]
)
def test_a_page_elsewhere_cannot_ask_by_a_name_of_its_own(host, web):
    for path in ("/", "/health", "/v1/models"):
        assert web.get(path, headers={"Host": host}).status_code == 403
    assert web.get("/health", headers={"Host": "127.0.0.1:8000"}).status_code == 200
    assert web.get("/health", headers={"Host": "[::1]:8000"}).status_code == 200


def test_more_than_may_wait_are_told_when_to_come_back(worker):
    app = build(worker, ServeSettings(limits=ServeLimits(batch=1, queue=1, tokens=80)))
    found = []

    def ask():
        found.append(web.post("/v1/chat/completions", json=body(max_tokens=80)))

    with TestClient(app, base_url="http://localhost") as web:
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(120)
    refused = [one for one in found if one.status_code == 429]
    assert len(found) == 5 and 1 <= len(refused) <= 3
    assert all(one.status_code == 200 for one in found if one not in refused)
    assert {one.headers["Retry-After"] for one in refused} == {"1"}
    assert {one.json()["error"]["type"] for one in refused} == {"rate_limit_error"}


async def posted(app, path, sent, whole, left, send):
    """A request whose client sends a body, or some of one, and leaves when it is told to."""
    given = [{"type": "http.request", "body": sent, "more_body": not whole}]

    async def receive():
        if given:
            return given.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http"}
    scope |= {
        "raw_path": path.encode(),
        "root_path": "",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await asyncio.wait_for(app(scope, receive, send), 60)


def test_a_client_that_leaves_in_the_middle_of_a_stream_stops_the_work(worker):
    app = build(worker, ServeSettings(limits=ServeLimits(tokens=100_000)))

    async def leave():
        sent, left = [], asyncio.Event()
        asked = json.dumps(body(stream=True, max_tokens=90_000)).encode()

        async def send(what):
            sent.append(what)
            if len(sent) == 4:
                left.set()

        await posted(app, "/v1/chat/completions", asked, True, left, send)
        return sent

    sent = asyncio.run(leave())
    assert sent[0]["status"] == 200 and len(sent) < 1000
    limit = threading.Event()
    for _ in range(1000):
        if not worker._writing:
            break
        limit.wait(0.01)
    assert not worker._writing and not worker._queue


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/compare"])
def test_a_body_that_does_not_come_holds_no_place_for_ever(path, worker):
    app = build(worker, ServeSettings(limits=ServeLimits(batch=1, queue=1, seconds=0.3)))

    async def wait():
        sent: list[list[dict]] = [[] for _ in range(4)]

        async def told(to, what):
            to.append(what)

        # Two places: who comes third is told to come back, and finds one once those have waited in vain.
        never = [posted(app, path, b"{", False, asyncio.Event(), partial(told, each)) for each in sent]
        await asyncio.gather(*never[:3])
        await never[3]
        return [each[0]["status"] for each in sent]

    assert asyncio.run(wait()) == [408, 408, 429, 408]


def test_a_comparison_that_nobody_waits_for_any_more_is_not_begun(worker, app, monkeypatch):
    begun: list = []
    monkeypatch.setattr("saccade.serve.app.compare", lambda *given: begun.append(given))
    asked = {"image": data_url(picture(1)), "question": ASK, "plan": "prune", "max_tokens": LONGEST}

    async def leave():
        sent, left, busy = [], asyncio.Event(), threading.Event()

        async def send(what):
            sent.append(what)

        worker.alone(busy.wait)
        going = posted(app, "/compare", json.dumps(asked).encode(), True, left, send)
        coming = asyncio.ensure_future(going)
        try:
            while not worker._jobs:
                await asyncio.sleep(0.01)
            left.set()
            await asyncio.wait({coming}, timeout=10)
        finally:
            busy.set()
        await coming
        return sent

    assert asyncio.run(leave())[0]["status"] == 499
    # Behind it: what is done next is done after it would have been.
    worker.alone(lambda: None).result(60)
    assert not begun


@pytest.mark.parametrize("why", ["left", "late"])
def test_a_comparison_that_nobody_waits_for_any_more_is_broken_off(why):
    own, many = started(tokens=2000), 2000
    app = build(own, ServeSettings(limits=ServeLimits(tokens=many, seconds=300 if why == "left" else 0.5)))
    asked = {"image": data_url(picture(1)), "question": ASK, "plan": "prune", "max_tokens": many}
    steps: list = []
    own.loaded.model.register_forward_pre_hook(lambda *_: steps.append(why))

    async def ask():
        sent, left = [], asyncio.Event()

        async def send(what):
            sent.append(what)

        going = posted(app, "/compare", json.dumps(asked).encode(), True, left, send)
        coming = asyncio.ensure_future(going)
        while not steps:
            await asyncio.sleep(0.01)
        if why == "left":
            left.set()
        await coming
        return sent[0]["status"]

    try:
        own.loaded.model.generation_config.eos_token_id = None
        assert asyncio.run(ask()) == (499 if why == "left" else 504)
        # What others asked meanwhile is next, and finds the model as it was.
        assert own.alone(lambda: len(own.loaded.model._forward_pre_hooks)).result(60) == 1
        assert len(steps) < many
    finally:
        own.close()


def test_a_stream_that_never_begins_gives_its_place_back():
    over = []

    async def never():
        yield "data: 1"

    async def receive():
        await asyncio.sleep(60)

    async def send(what):
        raise OSError("the client has left")

    async def begin():
        response = EventStream(never(), lambda: over.append(True))
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    with pytest.raises(ClientDisconnect):
        asyncio.run(begin())
    assert over == [True]


def test_pixels_are_counted_over_all_pictures_of_a_request(worker):
    app = build(worker, ServeSettings(limits=ServeLimits(pixels=2047, tokens=LONGEST)))
    with TestClient(app, base_url="http://localhost") as web:
        for images, status in (((picture(1),), 200), ((picture(1), picture(2)), 400)):
            asked = body(messages=[message(ASK, *images)])
            assert web.post("/v1/chat/completions", json=asked).status_code == status


def test_metrics_are_prometheus_s(web, client):
    from prometheus_client.parser import text_string_to_metric_families

    client.chat.completions.create(**body(model="toy@vskip"))
    client.chat.completions.create(**body(model="toy@vskip"))
    found = {one.name: one for one in text_string_to_metric_families(web.get("/metrics").text)}
    names = (
        *("time_to_first_token_seconds", "tokens_per_second", "generated_tokens", "visual_row_layers"),
        *("queue_length", "refused", "prefix_lookups", "prefix_bytes", "prompt_rows", "running", "requests"),
    )
    assert {f"saccade_{name}" for name in names} <= set(found)
    counts = [s for s in found["saccade_time_to_first_token_seconds"].samples if s.name.endswith("_count")]
    assert next(s.value for s in counts if s.labels == {"plan": "vskip"}) >= 2


def test_the_page_compares_a_plan_with_dense(web, offline):
    response = web.get("/")
    policy, html = response.headers["Content-Security-Policy"], response.text
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert (
        f'<script nonce="{nonce}">' in html
        and html.count("<script") == 1
        and "'unsafe-inline'" not in policy.split("style-src")[0]
    )
    for name, spec in PLANS.items():
        assert f"{name}: {Plan.of(spec).spec}" in html
    assert "http://" not in html and "https://" not in html, "nothing is fetched from elsewhere"
    # Whatever the script fills in is there.
    script = html.split(f'<script nonce="{nonce}">')[1]
    for name in set(re.findall(r'by\("([\w-]+)"\)', script)) - {"key"}:
        assert f'id="{name}"' in html, name
    asked = {"image": data_url(picture(1)), "question": ASK, "plan": "prune", "max_tokens": LONGEST}
    found = web.post("/compare", json=asked).json()
    assert found["dense"]["answer"] == offline(ASK, (picture(1),))
    assert found["planned"]["answer"] == offline(ASK, (picture(1),), "prune")
    assert 0 < found["flops_ratio"] < 1 and found["planned"]["tflops"] < found["dense"]["tflops"]
    assert found["dense"]["seconds"] > 0 and found["planned"]["seconds"] > 0
    assert found["rows"] == 16 and found["kept"] == 6 and found["drawing"].startswith("<!doctype html>")
    for wrong, status in (({"plan": "x.json"}, 404), ({"image": "nothing"}, 400), ({"question": ""}, 400)):
        assert web.post("/compare", json=asked | wrong).status_code == status
