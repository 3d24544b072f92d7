#!/usr/bin/env python3
"""moto's server, pinned, with an overlay that gives it Network Load Balancer semantics.

usage: nlb.py -H 127.0.0.1 -p 5556   (0: any port); prints its URL
env:   NLB_PROVISION_POLLS  describes until a load balancer is active (2)
       TG_INITIAL_POLLS     describes until a target has been asked for its health (1)
       TG_DRAIN_POLLS       describes that a removed target stays draining (2)
       ENI_DETACH_POLLS     tries to delete a security group that fail after its load balancer went (1)
hooks: POST /moto-strict/health {"target":"10.0.0.1:80","state":"unhealthy","reason":"Target.FailedHealthChecks"}; "*": all
       POST /moto-strict/fault  {"action":"CreateListener","code":"Throttling","times":2}
       POST /moto-strict/clear  takes both back
       POST /moto-strict/quota  {"most": 50}: Network Load Balancers that the account may have
       POST /moto-strict/subnet, /pace: in refusals.py
       POST /moto-strict/tagged-only  [{"arn", "type", "tags"}]: things that exist for the tagging API alone
       POST /moto-strict/calls  answers how often each API was called since the last time it was asked

Owns: the order in which the overlay's files wrap moto. Leaves to moto: the wire, parsing and writing every message. What the
overlay asserts, and what nobody could check, is in README.md.
"""

import sys

import moto
import moto.server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication

assert moto.__version__ == "5.2.5", moto.__version__
# Each wraps what those before it did.
import load_balancers  # isort: skip
import security_groups  # isort: skip
import target_groups  # isort: skip
import listeners  # isort: skip
import tags  # isort: skip
import families  # isort: skip  IPv6: source NAT, chosen addresses
import limits  # isort: skip  how many load balancers an account may have
import refusals  # isort: skip  what AWS refuses or holds on to that moto does not
import hooks  # isort: skip

DomainDispatcherApplication.__call__ = hooks.around(DomainDispatcherApplication.__call__)


def serve(host, port, app, *, threaded, request_handler, **_):
    """Tells where it listens: port 0 is one that nobody else has."""
    from werkzeug.serving import make_server

    server = make_server(host, port, app, threaded=threaded, request_handler=request_handler)
    print(f"http://{host}:{server.server_port}", flush=True)
    server.serve_forever()


moto.server.run_simple = serve
if __name__ == "__main__":
    moto.server.main(sys.argv[1:])
