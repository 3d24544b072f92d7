"""What an account may have: Network Load Balancers in a region, told by DescribeAccountLimits and kept to.

Owns: that quota. Leaves to moto: other limits. An account of tests has had its quota raised, unless a test says otherwise
(POST /moto-strict/quota {"most": 50}).
"""

from moto.core.responses import ActionResult
from moto.elbv2 import exceptions as X, models as M, responses as R

QUOTA = {"most": 10_000}
_create = M.ELBv2Backend.create_load_balancer


def create_load_balancer(self, name, *args, **kw):
    others = [lb for lb in self.load_balancers.values() if lb.type == "network" and lb.name != name]
    if len(others) >= QUOTA["most"]:
        raise X.ELBClientError(
            "TooManyLoadBalancers", "The maximum number of load balancers of this type has been reached"
        )
    return _create(self, name, *args, **kw)


def describe_account_limits(self):
    return ActionResult({"Limits": [{"Name": "network-load-balancers", "Max": str(QUOTA["most"])}]})


M.ELBv2Backend.create_load_balancer = create_load_balancer
R.ELBV2Response.describe_account_limits = describe_account_limits
