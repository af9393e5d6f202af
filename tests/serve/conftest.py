"""A tiny random Glance behind a server, in this process."""

from __future__ import annotations

import openai
import pytest
from starlette.testclient import TestClient

from saccade import models
from saccade.engine import apply
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan
from saccade.serve.app import build
from saccade.serve.settings import ServeSettings
from serve.serving import LONGEST, PLANS, started
from support.toy import build_toy


@pytest.fixture(scope="session")
def offline():
    """What `saccade generate` answers: one question alone, under a plan."""
    other = build_toy()

    def ask(question, images=(), plan="", longest=LONGEST):
        wanted = Plan.of(PLANS[plan]) if plan else Plan()
        sample = Sample("q", "", "", tuple(images), question)
        with apply(other.model, wanted):
            batch = models.inputs(other, [sample], wanted)
            made = other.model.generate(**batch, **models.greedy(longest))
        return models.answers(other, made, batch["input_ids"].shape[1])[0]

    return ask


@pytest.fixture(scope="module")
def worker():
    """A worker; its thread has the model."""
    one = started()
    yield one
    one.close()


@pytest.fixture(scope="module")
def app(worker):
    """The application around it."""
    return build(worker, ServeSettings(limits=worker.limits))


@pytest.fixture(scope="module")
def web(app):
    """A client of plain HTTP."""
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def client(web):
    """OpenAI's own client, in this process."""
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=web, max_retries=0)
