"""What AWS refuses by its documents and moto takes; and what AWS keeps to itself for a while.

Owns: values of health checks and attributes, characters and counts of tags, subnets without room or in a Local Zone, targets
in zones that the load balancer lacks, who still holds a thing that is to go, and how long. Leaves to others: what a load
balancer is. Documents: "Health checks" and "Edit target group attributes" of the Network Load Balancer guide, the
ELBv2 API reference, "Tag your resources". Codes and words are guesses where README.md says so.

env:   EIP_DETACH_POLLS    creations that find an elastic address in use after its load balancer went (1)
       TG_INITIAL_SECONDS  how long a new target is `initial` besides (0; AWS takes minutes)
hooks: POST /moto-strict/subnet  {"id": "subnet-…", "free": 7, "zone": "us-east-1-bos-1a"}: room and zone of a subnet
       POST /moto-strict/pace    {"initial_seconds": 180}
"""

import ipaddress
import os
import re
import time
import unicodedata

from moto.ec2 import models as EC2
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.subnets import Subnet
from moto.elbv2 import exceptions as X, models as M

B = M.ELBv2Backend
E = X.ELBClientError
PACE = {"initial_seconds": float(os.environ.get("TG_INITIAL_SECONDS", 0))}
HOLDS = int(os.environ.get("EIP_DETACH_POLLS", 1))
HELD = {}
UDP = ("UDP", "TCP_UDP")
NLB = ("TCP", "TLS", *UDP)
MOST_TAGS = 50
FREE = 8


def _invalid(words):
    raise X.InvalidConfigurationRequest(words)


# ---------------------------------------------------------------- tags
def _taken(text, most):
    return len(text) <= most and all(c in "_.:/=+-@" or unicodedata.category(c)[0] in "LZN" for c in text)


def check_tags(asked, there=()):
    """Refuses tags by their characters, and too many of them."""
    for tag in asked or []:
        key, value = tag["Key"], tag.get("Value") or ""
        if not key or not _taken(key, 128) or not _taken(value, 256):
            raise X.ValidationError(f"The tag '{key}' has characters that are not supported, or is too long")
        if key.lower().startswith("aws:"):
            raise X.ValidationError("aws: prefixed tag key names are not allowed for external use")
    keys = [tag["Key"] for tag in asked or []]
    if len(set(keys)) < len(keys):
        raise E("DuplicateTagKeys", "A tag key was specified more than once")
    if len(set(there) | set(keys)) > MOST_TAGS:
        raise X.TooManyTagsError()


_add_tags = B.add_tags


def add_tags(self, resource_arns, tags):
    for arn in resource_arns:
        self._get_resource_by_arn(arn)
        check_tags(tags, self.tagging_service.get_tag_dict_for_resource(arn))
    return _add_tags(self, resource_arns, tags)


B.add_tags = add_tags


# ---------------------------------------------------------------- subnets and addresses
def local_zone(name):
    """`us-east-1-bos-1a`; a zone of the region is `us-east-1a`."""
    return re.fullmatch(r"[a-z]+(-[a-z]+)+-\d-[a-z]{3}-\d[a-z]", name) is not None


def _room(self, subnets):
    for id in subnets:
        try:
            subnet = self.ec2_backend.get_subnet(id)
        except Exception:
            continue  # load_balancers.py says it
        if local_zone(subnet.availability_zone):
            raise E("AvailabilityZoneNotSupported", f"The Availability Zone '{subnet.availability_zone}' is not supported")
        if subnet.available_ip_address_count < FREE:
            raise E(
                "InvalidSubnet",
                f"Not enough IP space available in {id}. ELB requires at least {FREE} free IP addresses in each subnet.",
            )


def _held(mappings):
    held = [one["AllocationId"] for one in mappings if HELD.get(one.get("AllocationId"), 0) > 0]
    HELD.update({allocation: HELD[allocation] - 1 for allocation in held})
    if held:
        raise E("ResourceInUse", "The allocation IDs are not available for use")


def _zone(self, name):
    """A zone's name for a subnet, in place of that which moto made it in."""
    kind = type(self._availability_zone)
    zone = kind.__new__(kind)
    zone.__dict__.update({**self._availability_zone.__dict__, "name": name})
    self._availability_zone = zone


def subnet(backend, id, free=None, zone=None):
    """What the hook asks of a subnet."""
    found = backend.get_subnet(id)
    if free is not None:
        found._available_ip_addresses += free - found.available_ip_address_count
    if zone is not None:
        _zone(found, zone)


Subnet.ipv6_cidr_block_association_set = property(
    lambda self: [
        {
            "ipv6CidrBlock": one["ipv6CidrBlock"],
            "associationId": one["associationId"],
            "ipv6CidrBlockState": {"state": one["ipv6CidrBlockState"]["State"]},
        }
        for one in self.ipv6_cidr_block_associations.values()
        if one["ipv6CidrBlockState"]["State"] == "associated"
    ]
)

_create = B.create_load_balancer


def create_load_balancer(self, name, security_groups, subnet_ids, *args, **kw):
    check_tags(kw.get("tags"))
    mappings = kw.get("subnet_mappings") or []
    if not any(lb.name == name for lb in self.load_balancers.values()):
        _room(self, [*(subnet_ids or []), *(mapping["SubnetId"] for mapping in mappings)])
        _held(mappings)
    return _create(self, name, security_groups, subnet_ids, *args, **kw)


_set_subnets = B.set_subnets


def set_subnets(self, arn, subnets, mappings):
    lb = self.load_balancers.get(arn)
    there = {one.id for one in lb.subnets} if lb is not None else set()
    _room(self, {*(subnets or []), *(mapping["SubnetId"] for mapping in mappings or [])} - there)
    return _set_subnets(self, arn, subnets, mappings)


B.create_load_balancer = create_load_balancer
B.set_subnets = set_subnets

# ---------------------------------------------------------------- what something still holds on to
_delete = B.delete_load_balancer


def delete_load_balancer(self, arn):
    services = self.ec2_backend.configurations.values()
    if any(arn in service.network_load_balancer_arns for service in services):
        raise E(
            "ResourceInUse",
            f"Load balancer '{arn}' cannot be deleted because it is currently associated with another service",
        )
    lb = self.load_balancers.get(arn)
    held = [m["AllocationId"] for m in getattr(lb, "_maps", {}).values() if m.get("AllocationId")]
    _delete(self, arn)
    HELD.update({allocation: HOLDS for allocation in held})


B.delete_load_balancer = delete_load_balancer
_delete_group = EC2.EC2Backend.delete_security_group


def delete_security_group(self, name=None, group_id=None):
    """A rule of another group that names it keeps it."""
    for groups in self.groups.values():
        for other in groups.values():
            rules = [*other.ingress_rules, *other.egress_rules] if other.id != group_id else []
            if any(rule.source_group.get("GroupId") == group_id for rule in rules):
                raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
    return _delete_group(self, name=name, group_id=group_id)


EC2.EC2Backend.delete_security_group = delete_security_group


# ---------------------------------------------------------------- target groups
def _check(interval, timeout, path=None, codes=None):
    if timeout is not None and not 2 <= int(timeout) <= 120:
        raise X.ValidationError(f"Health check timeout '{timeout}' must be between '2' and '120'")
    if timeout is not None and interval is not None and int(timeout) > int(interval):
        raise X.ValidationError(
            f"Health check timeout '{timeout}' must be smaller than or equal to the interval '{interval}'"
        )
    if path and (not path.startswith("/") or len(path) > 1024):
        raise X.ValidationError(f"Health check path '{path}' must begin with a '/' character")
    for part in (codes or "").split(",") if codes else []:
        for code in part.split("-"):
            if not code.strip().isdigit() or not 200 <= int(code) <= 599:
                raise X.ValidationError(f"Health check matcher HTTP code '{codes}' must be within '200-599'")


_create_group = B.create_target_group


def create_target_group(self, name, **kw):
    check_tags(kw.get("tags"))
    matcher = (kw.get("matcher") or {}).get("HttpCode")
    _check(
        kw.get("healthcheck_interval_seconds"),
        kw.get("healthcheck_timeout_seconds"),
        kw.get("healthcheck_path"),
        matcher,
    )
    known = any(tg.name == name for tg in self.target_groups.values())
    tg = _create_group(self, name, **kw)
    if not known and tg.protocol in UDP:
        tg.attributes["deregistration_delay.connection_termination.enabled"] = "true"
        tg.attributes["target_health_state.unhealthy.connection_termination.enabled"] = "false"
    return tg


_modify_group = B.modify_target_group


def modify_target_group(self, arn, protocol=None, port=None, path=None, interval=None, timeout=None, *args, **kw):
    tg = self.target_groups.get(arn)
    if tg is not None:
        codes = args[2] if len(args) > 2 else None
        _check(
            interval or tg.health_check_interval_seconds,
            timeout or tg.health_check_timeout_seconds,
            path,
            codes,
        )
    return _modify_group(self, arn, protocol, port, path, interval, timeout, *args, **kw)


_attributes = B.modify_target_group_attributes


def modify_target_group_attributes(self, target_group_arn, attributes):
    tg = self.target_groups.get(target_group_arn)
    if tg is not None and tg.protocol in NLB:
        for key, value in attributes.items():
            if key.endswith(".enabled") and key != "load_balancing.cross_zone.enabled" and value not in ("true", "false"):
                raise X.ValidationError(f"The value of '{key}' must be 'true' or 'false'")
            if key == "deregistration_delay.timeout_seconds" and not (value.isdigit() and int(value) <= 3600):
                raise X.ValidationError(f"'{key}' value '{value}' must be between '0' and '3600'")
        if attributes.get("stickiness.enabled") == "true" and tg.protocol == "TLS":
            _invalid("Stickiness is not supported for target groups with the TLS protocol")
        if attributes.get("preserve_client_ip.enabled") == "false" and tg.protocol in UDP:
            _invalid(f"Client IP preservation cannot be disabled for target groups with the {tg.protocol} protocol")
        if attributes.get("proxy_protocol_v2.enabled") == "true" and tg.protocol in UDP:
            _invalid(f"Proxy protocol is not supported for target groups with the {tg.protocol} protocol")
        if attributes.get("target_health_state.unhealthy.connection_termination.enabled") == "true" and tg.protocol in UDP:
            _invalid(f"Connection termination cannot be enabled for target groups with the {tg.protocol} protocol")
    return _attributes(self, target_group_arn, attributes)


B.create_target_group = create_target_group
B.modify_target_group = modify_target_group
B.modify_target_group_attributes = modify_target_group_attributes


# ---------------------------------------------------------------- targets
def zone_of(tg, target):
    """The zone's name, if a subnet of the VPC has the target."""
    if tg.target_type == "instance":
        instance = tg.ec2_backend.get_instance_by_id(target["Id"])
        subnet_id = getattr(instance, "subnet_id", None)
        return tg.ec2_backend.get_subnet(subnet_id).availability_zone if subnet_id else None
    address = ipaddress.ip_address(target["Id"])
    for one in tg.ec2_backend.describe_subnets():
        ranges = [one.cidr, *(ipaddress.ip_network(it["ipv6CidrBlock"]) for it in one.ipv6_cidr_block_associations.values())]
        if one.vpc_id == tg.vpc_id and any(address in net for net in ranges if net.version == address.version):
            return one.availability_zone
    return None


def aside(tg, target):
    """State, reason and words of a target that nobody asks, whatever it would say; None: it is asked."""
    backend = M.elbv2_backends[tg.account_id][tg.region_name]
    balancers = [backend.load_balancers[arn] for arn in tg.load_balancer_arns if arn in backend.load_balancers]
    enabled = {one.availability_zone for lb in balancers for one in lb.subnets}
    if "_zone" not in target:
        target["_zone"] = zone_of(tg, target)
    if target["_zone"] is not None and target["_zone"] not in enabled:
        return "unused", "Target.NotInUse", "Target is in an Availability Zone that is not enabled for the load balancer"
    now = time.monotonic()
    if now - target.setdefault("_since", now) < PACE["initial_seconds"]:
        return "initial", "Elb.RegistrationInProgress", "Target registration is in progress"
    return None


# ---------------------------------------------------------------- listeners
_create_listener = B.create_listener


def create_listener(self, load_balancer_arn, protocol, port, ssl_policy, certificate, actions, alpn_policy=None, tags=None):
    check_tags(tags)
    return _create_listener(self, load_balancer_arn, protocol, port, ssl_policy, certificate, actions, alpn_policy, tags)


B.create_listener = create_listener
_init = M.FakeAction.__init__


def action(self, data):
    """A forward to one target group is shown both ways."""
    groups = (data.get("ForwardConfig") or {}).get("TargetGroups") or []
    if len(groups) == 1:
        data.setdefault("TargetGroupArn", groups[0]["TargetGroupArn"])
    _init(self, data)


M.FakeAction.__init__ = action
_by_arn = B._get_resource_by_arn


def by_arn(self, arn):
    """A listener's default rule is a rule."""
    if ":listener-rule" in arn:
        for lb in self.load_balancers.values():
            for listener in lb.listeners.values():
                for rule in listener.rules.values():
                    if rule.arn == arn:
                        return rule
    return _by_arn(self, arn)


B._get_resource_by_arn = by_arn
