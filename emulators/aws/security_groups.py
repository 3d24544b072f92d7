"""Security groups: they stay while a load balancer has them, and for a while after it was deleted.

env: ENI_DETACH_POLLS, tries to delete a group that fail after its load balancer was deleted (1).
"""

import os

import load_balancers  # its delete_load_balancer comes first
from moto.ec2 import models as ec2_models
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix
from moto.elbv2 import models

Backend = models.ELBv2Backend
DETACH_POLLS = int(os.environ.get("ENI_DETACH_POLLS", 1))
DETACHING = {}
_delete_load_balancer = Backend.delete_load_balancer


def delete_load_balancer(self, arn):
    lb = self.load_balancers.get(arn)
    groups = list(lb.security_groups or []) if lb is not None else []
    _delete_load_balancer(self, arn)
    DETACHING.update({group: DETACH_POLLS for group in groups})


Backend.delete_load_balancer = delete_load_balancer
_delete_security_group = ec2_models.EC2Backend.delete_security_group


def delete_security_group(self, name=None, group_id=None):
    """A group in front of a load balancer stays for as long as its network interfaces do."""
    backend = models.elbv2_backends[self.account_id][self.region_name]
    used = any(group_id in (lb.security_groups or []) for lb in backend.load_balancers.values())
    if used or DETACHING.get(group_id, 0) > 0:
        DETACHING[group_id] = DETACHING.get(group_id, 1) - 1
        raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
    DETACHING.pop(group_id, None)
    return _delete_security_group(self, name=name, group_id=group_id)


ec2_models.EC2Backend.delete_security_group = delete_security_group


def get_tags(self):
    """moto looks through the tags of all things for those of one, which with a thousand groups takes it ten seconds a call."""
    if not self.id:
        return []
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "")
    own = self.ec2_backend.tags.get(self.id, {})
    return [{"resource_id": self.id, "key": key, "value": value, "resource_type": kind} for key, value in own.items()]


TaggedEC2Resource.get_tags = get_tags
