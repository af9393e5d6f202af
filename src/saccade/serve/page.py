"""The page at ``/``: a picture, a question, and the answers of the model with a plan and without."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib.resources import files

from markupsafe import Markup

from saccade.plans.plan import Plan
from saccade.report.pieces import document
from saccade.report.templates import fill
from saccade.serve.conversation import Catalogue

ROOM = "saccade.serve"


def render(catalogue: Catalogue, plans: Mapping[str, Plan], keyed: bool) -> tuple[str, str]:
    """The page, and the policy that a browser keeps with it: nothing is fetched but from this server.

    Args:
        catalogue: The model and its plans.
        plans: The plans by name.
        keyed: Whether clients must show a key.
    """
    nonce = secrets.token_urlsafe(16)
    script = Markup(files(ROOM).joinpath("page.js").read_text(encoding="utf-8"))
    named = {name: plans[name].spec for name in catalogue.plans}
    body = fill(
        ROOM, "page.html", model=catalogue.model, plans=named, keyed=keyed, nonce=nonce, script=script
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return document(f"Saccade serves {catalogue.model}", body, (ROOM,)), policy
