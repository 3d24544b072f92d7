"""What a test asks of the emulator past AWS's APIs: faults, health, quotas, counts.

Owns: /moto-strict/…, and that calls and hooks run one after another: moto's dictionaries are no more than dictionaries.
"""

import io
import json
import re
import threading
from collections import Counter
from urllib.parse import parse_qs

import limits
import refusals
import tags
import target_groups
from moto.ec2 import models as ec2_models
from moto.elbv2.exceptions import ELBClientError
from moto.elbv2.responses import ELBV2Response

FAULTS = []
CALLS = Counter()
ONE_BY_ONE = threading.Lock()
_call_action = ELBV2Response.call_action


def call_action(self):
    action = self._get_action()
    for fault in FAULTS:
        if fault["action"] in (action, "*") and fault.get("times", 1) > 0:
            fault["times"] = fault.get("times", 1) - 1
            error = ELBClientError(fault.get("code", "Throttling"), fault.get("message", "Rate exceeded"))

            def fail(error=error):
                raise error

            setattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower(), fail)
            break
    return _call_action(self)


ELBV2Response.call_action = call_action


def answer(path, body):
    """Does what a hook asks; its answer, as JSON."""
    hook = path.rpartition("/")[2]
    if hook == "tagged-only":
        tags.TAGGED_ONLY.extend(body)
    elif hook == "calls":
        counted = json.dumps(CALLS, sort_keys=True).encode()
        CALLS.clear()
        return counted
    elif hook == "health" and body.get("state"):
        target_groups.HEALTH[body["target"]] = body
    elif hook == "health":
        target_groups.HEALTH.pop(body["target"], None)
    elif hook == "fault":
        FAULTS.append(body)
    elif hook == "quota":
        limits.QUOTA.update(body)
    elif hook == "pace":
        refusals.PACE.update(body)
    elif hook == "subnet":
        refusals.subnet(ec2_models.ec2_backends["123456789012"]["us-east-1"], **body)
    elif hook == "clear":
        target_groups.HEALTH.clear()
        FAULTS.clear()
    return b"{}"


def around(application):
    """The application with hooks, which counts calls."""

    def call(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(raw)
        with ONE_BY_ONE:
            if path.startswith("/moto-strict/"):
                answered = answer(path, json.loads(raw or b"{}"))
                start_response("200 OK", [("Content-Type", "application/json")])
                return [answered]
            target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
            CALLS[target or parse_qs(raw.decode("utf-8", "replace")).get("Action", ["?"])[0]] += 1
            return application(self, environ, start_response)

    return call
