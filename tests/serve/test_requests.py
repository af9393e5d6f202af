"""What a request may say, and what it is told otherwise."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time

import pytest

from saccade.serve import pictures
from saccade.serve.conversation import drawing
from saccade.serve.errors import RequestRefused
from saccade.serve.pictures import picture as read
from saccade.serve.schema import ChatRequest, parse
from saccade.serve.settings import ServeLimits, ServeSettings
from serve.serving import data_url, picture

ASK = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def refused(**fields) -> RequestRefused:
    with pytest.raises(RequestRefused) as found:
        parse(json.dumps(ASK | fields).encode(), ChatRequest)
    assert found.value.status == 400 and "\n" not in str(found.value)
    return found.value


def part(what) -> dict:
    """A message with one part."""
    return {"messages": [{"role": "user", "content": [what]}]}


@pytest.mark.parametrize(
    "fields",
    [
        *({"user": "me"}, {"metadata": {"a": "b"}}, {"store": True}, {"n": 1}, {"n": None}, {"tools": []}),
        *({"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logprobs": False}, {"stop": None}),
        *({"response_format": {"type": "text"}}, {"stream_options": {"include_usage": True}}),
        *({"temperature": 0}, {"temperature": 1.5, "top_p": 0.3}, {"seed": -1}, {"stop": ["a", "b"]}),
        *({"max_tokens": 3}, {"max_completion_tokens": 3}, {"reasoning_effort": "low"}),
        {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "name": "n", "content": []}]},
        # An answer of before, with all the fields that OpenAI's client has for it.
        {
            "messages": [
                {"role": "assistant", "content": "yes", "refusal": None, "annotations": [], "audio": None}
                | {"function_call": None, "tool_calls": None}
            ]
        },
    ],
)
def test_what_asks_for_nothing_else_is_taken(fields):
    assert parse(json.dumps(ASK | fields).encode(), ChatRequest).model == "m"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"tools": [{}]}, "tools")),
        *(({"response_format": {"type": "json_object"}}, "response_format"), ({"n": True}, "n")),
        *(({"frequency_penalty": 0.5}, "frequency_penalty"), ({"logit_bias": {"1": 2}}, "logit_bias")),
        *(({"temprature": 1}, "temprature"), ({"plan": "x.json"}, "plan"), ({"messages": []}, "messages")),
        *(
            ({"temperature": 2.1}, "temperature"),
            ({"temperature": "1"}, "temperature"),
            ({"top_p": 0}, "top_p"),
        ),
        *(({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"), ({"seed": 2**63}, "seed")),
        *(({"model": 3}, "model"), ({"stop": ["a"] * 5}, "stop"), ({"stream": "yes"}, "stream")),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages.0.content"),
        ({"messages": "hello"}, "messages"),
        *(({"messages": [3]}, "messages.0"), (part(3), "messages.0.content.0")),
        (part({"type": "text", "text": 3}), "messages.0.content.0.text"),
        (part({"type": "text", "text": "x", "size": 3}), "messages.0.content.0.size"),
        (part({"type": "image_url", "image_url": "data:"}), "messages.0.content.0.image_url"),
        (
            part({"type": "image_url", "image_url": {"url": "", "detail": "x"}}),
            "messages.0.content.0.image_url.detail",
        ),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]}, "messages.0.refusal"),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(fields, param):
    error = refused(**fields)
    assert str(error.param).startswith(param), error.param
    assert param.split(".")[0] in str(error)


def test_what_is_wrong_in_a_part_is_told_and_not_that_it_is_no_text():
    told = str(refused(**part({"type": "video_url", "video_url": {"url": "x"}})))
    assert "'video_url'" in told and "'text', 'image_url'" in told
    assert "a JSON object is needed" in str(refused(**part({"type": "image_url", "image_url": "data:"})))
    for content in (None, 3, {"type": "text", "text": "x"}):
        told = str(refused(messages=[{"role": "user", "content": content}]))
        assert told == "messages.0.content: text is needed, or a list of parts"


@pytest.mark.parametrize("name", ["\ud800", "a\n\x1b[2J", "x" * 5000])
@pytest.mark.parametrize("at", ["top", "message"])
def test_names_of_fields_are_told_in_a_few_visible_characters(name, at):
    said = {"messages": [{"role": "user", "content": "x", name: 1}]} if at == "message" else {name: 1}
    error = refused(**said)
    assert not str(error).startswith(":")
    told = json.dumps(error.body(), ensure_ascii=False).encode()
    assert len(told) < 1000 and b"\x1b" not in told and str(error.param).isprintable()


def test_too_many_stops_are_counted():
    assert "stop: Value error, at most 4 texts, not 5" in str(refused(stop=["a"] * 5))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"model": 1e999999}', b"\x00"]
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(RequestRefused) as found:
        parse(body, ChatRequest)
    assert found.value.status == 400


def test_an_unknown_field_is_told_in_openai_s_words():
    assert "Unrecognized request argument supplied: temprature" in str(refused(temprature=1))


def test_drawing_is_greedy_unless_something_is_said():
    def drawn(**fields):
        return drawing(parse(json.dumps(ASK | fields).encode(), ChatRequest))

    assert drawn().temperature == 0 and drawn(seed=3).temperature == 0
    assert drawn(temperature=0.5).temperature == 0.5
    assert (drawn(top_p=0.5).temperature, drawn(top_p=0.5).top_p) == (1, 0.5)


def test_a_data_url_is_its_picture():
    image = picture(3)
    assert read(data_url(image), "it", ServeSettings(), 1024).tobytes() == image.tobytes()


def test_a_data_url_is_read_however_base64_is_written():
    # Greys whose file has all characters of the alphabet.
    image = picture(3)
    head, _, held = data_url(image).partition(",")
    assert "+" in held and "/" in held and held.endswith("=")
    lines = "\r\n".join(held[n : n + 76] for n in range(0, len(held), 76))
    urls = [f"{head},{one}" for one in (lines, held.rstrip("="), held.replace("+", "-").replace("/", "_"))]
    urls += [f"{head},{held.replace('+', '%2B').replace('=', '%3D')}", f" {head},{held}\n"]
    urls += [f"{one},{held}" for one in ("DATA:IMAGE/PNG;BASE64", "data:image/png;name=a.png;base64")]
    for url in urls:
        assert read(url, "it", ServeSettings(), 1024).tobytes() == image.tobytes(), url[:60]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "file:///etc/passwd",
            "data:text/plain;base64,aGk=",
            "data:image/png;base64,!!!",
            "/etc/passwd",
        ),
        *(
            "data:image/png;base64,aGVsbG8=",
            "data:image/png;base64,abcde",
            "data:image/png;base64,\u00e9===",
            "data:image/png,abc",
            "ftp://localhost/a.png",
        ),
        *("http://localhost/a.png", "HTTPS://localhost/a.png"),
    ],
)
def test_what_is_no_picture_is_refused(url):
    with pytest.raises(RequestRefused) as found:
        read(url, "messages.0.content.1", ServeSettings(), 1024)
    assert found.value.status == 400 and str(found.value).count("messages.0.content.1") == 1


def test_a_torn_or_huge_picture_is_refused_by_its_header():
    whole = data_url(picture(3))
    for url in (whole[:-40], whole):
        with pytest.raises(RequestRefused) as found:
            read(url, "it", ServeSettings(), 10**6 if url != whole else 1023)
        assert found.value.code == "invalid_image"


@pytest.fixture
def site():
    """A web site of this machine with a picture, a redirection and something too long."""
    body = base64.b64decode(data_url(picture(3)).partition(",")[2])

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/noise.png":
                self.wfile.write(b"no HTTP\r\n")
                return
            self.send_response(302 if self.path == "/moved.png" else 200)
            self.send_header("Location", "/a.png")
            self.end_headers()
            if self.path == "/slow.png":
                for byte in body[:40]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                return
            self.wfile.write(body if self.path != "/long.png" else b"x" * 5000)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_that_match_the_operator_s_pattern_wholly(site):
    settings = ServeSettings(urls=site.replace(".", r"\.") + r"/\w+\.png", limits=ServeLimits(body=4000))
    assert read(f"{site}/a.png", "it", settings, 1024).tobytes() == picture(3).tobytes()
    for path in ("/a.png?x", "/../a.png", "/moved.png", "/long.png", "/b.jpg"):
        with pytest.raises(RequestRefused):
            read(site + path, "it", settings, 1024)
    with pytest.raises(RequestRefused, match="not allowed"):
        read(f"http://evil/{site}/a.png", "it", settings, 1024)


@pytest.mark.parametrize("path", ["/a b.png", "/noise.png", "/\u00e9.png", "/a\x00.png"])
def test_what_cannot_be_fetched_is_the_client_s_to_know(path, site):
    with pytest.raises(RequestRefused, match="cannot be fetched") as told:
        read(site + path, "it", ServeSettings(urls=".*"), 1024)
    assert told.value.status == 400


def test_a_site_that_sends_byte_after_byte_is_not_waited_for(site, monkeypatch):
    monkeypatch.setattr(pictures, "FETCHING", 0.5)
    begun = time.monotonic()
    with pytest.raises(RequestRefused, match="longer than"):
        read(f"{site}/slow.png", "it", ServeSettings(urls=".*"), 1024)
    assert time.monotonic() - begun < 1.8


@pytest.mark.parametrize("wrong", [{"key": "a b"}, {"key": ""}, {"key": "é"}, {"urls": "("}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"API key|--allow-url"):
        ServeSettings(**wrong)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_known(host, alone):
    assert ServeSettings(host=host).alone == alone
