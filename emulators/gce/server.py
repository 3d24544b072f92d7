"""Compute Engine on loopback: `server.py [PORT]`, for tests of what calls it. 127.0.0.1 only.

Owns: HTTP, the check of every message in both directions, the hooks of tests. Leaves to others: meaning (compute.py).
Hooks, under /_emulator/: GET state, violations, log, news, save; POST reset, restore, fault, quota, polls, page, health, lose, forget, describe.
Invariant: a request that Google's discovery document does not allow is a 400, an answer a 500; both are kept.
"""

import json
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from compute import Compute
from discovery import Document
from rules import Failure

READS = ("get", "list", "aggregatedList", "listNetworkEndpoints", "listInstances", "getHealth", "wait")


class Emulator:
    def __init__(self):
        self.document, self.compute, self.lock = Document(), Compute(), threading.RLock()
        self.violations, self.log, self.lose, self.reported = [], [], 0, 0

    def hook(self, name, body):
        compute = self.compute
        reads = {"state": lambda: {"resources": compute.resources, "members": compute.members},
                 "violations": lambda: self.violations, "log": lambda: self.log, "news": self.news, "save": compute.save}
        if name in reads:
            return reads[name]()
        writes = {"reset": self.reset, "fault": lambda: compute.faults.append(body),
                  "quota": lambda: compute.quotas.update(body), "health": lambda: compute.health.update(body),
                  "polls": lambda: setattr(compute, "polls", body), "restore": lambda: compute.restore(body),
                  "page": lambda: setattr(compute, "largest_page", body),
                  "lose": lambda: setattr(self, "lose", body), "forget": lambda: compute.forget(body),
                  "describe": lambda: compute.describe(body)}
        writes[name]()
        return {}

    def reset(self):
        self.compute.reset()
        self.violations, self.log, self.lose, self.reported = [], [], 0, 0

    def news(self):
        """Calls since it was asked for last."""
        start, self.reported = self.reported, len(self.log)
        return self.log[start:]

    def answer(self, verb, path, query, body):
        """Status, body, and whether the reply is to be lost."""
        method, parameters = self.document.find(verb, path)
        if method is None:
            self.violations.append(f"no such method: {verb} {path}")
            return 404, _error(Failure(404, "notFound", self.violations[-1])), False
        self.log.append(f"{method['id']} {path}")
        errors = self.document.check_request(method, parameters, query, body)
        if errors:
            self.violations.extend(f"request {method['id']}: {error}" for error in errors)
            return 400, _error(Failure(400, "invalid", "; ".join(errors))), False
        try:
            status, answer = 200, self.compute.call(method, parameters, query, body)
        except Failure as failure:
            status, answer = failure.code, _error(failure)
        errors = self.document.check_response(method, status, answer)
        if errors:
            self.violations.extend(f"answer {method['id']}: {error}" for error in errors)
            return 500, _error(Failure(500, "emulatorBug", "; ".join(errors))), False
        return status, answer, self._loses(method)

    def _loses(self, method):
        if method["id"].rsplit(".", 1)[1] in READS or self.lose <= 0:
            return False
        self.lose -= 1
        return self.lose == 0


def _error(failure):
    detail = {"message": failure.message, "domain": "global", "reason": failure.reason}
    return {"error": {"code": failure.code, "message": failure.message, "errors": [detail]}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one segment: else Nagle and delayed ACKs cost 40 ms a call
    emulator = None

    def log_message(self, *_):
        pass

    def _reply(self, status, answer):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _go(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return self._reply(400, _error(Failure(400, "parseError", "Parse Error")))
        with self.emulator.lock:
            if url.path.startswith("/_emulator/"):
                return self._reply(200, self.emulator.hook(url.path.removeprefix("/_emulator/"), body))
            query = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
            status, answer, lost = self.emulator.answer(self.command, url.path, query, body)
            if lost:
                self.close_connection = True
                return None
            return self._reply(status, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _go


def main():
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    server.daemon_threads = True
    Handler.emulator = Emulator()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
