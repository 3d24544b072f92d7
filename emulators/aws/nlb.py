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

Owns: what moto lacks or does otherwise for NLBs. Leaves to moto: the wire, parsing and writing every message.
What it asserts, and what nobody could check, is in README.md.
"""

import io, os, re, sys, json, threading
from collections import Counter
from urllib.parse import parse_qs
import moto

assert moto.__version__ == "5.2.5", moto.__version__
from moto.elbv2 import models as M, responses as R, exceptions as X
from moto.core.responses import ActionResult

E = X.ELBClientError
PP, IP_, DP = (
    int(os.environ.get(k, d)) for k, d in (("NLB_PROVISION_POLLS", 2), ("TG_INITIAL_POLLS", 1), ("TG_DRAIN_POLLS", 2))
)
HEALTH = {}
FAULTS = []
TAGGED_ONLY = []
CALLS = Counter()
ONE_BY_ONE = threading.Lock()
_type = {"t": "app"}
M.make_arn_for_load_balancer = (
    lambda account_id, lb_id, name, region_name: f'arn:aws:elasticloadbalancing:{region_name}:{account_id}:loadbalancer/{_type["t"]}/{name}/{lb_id}'
)
NLB_ATTRS = {
    "access_logs.s3.enabled": "false",
    "access_logs.s3.bucket": "",
    "access_logs.s3.prefix": "",
    "deletion_protection.enabled": "false",
    "load_balancing.cross_zone.enabled": "false",
    "dns_record.client_routing_policy": "any_availability_zone",
    "ipv6.deny_all_igw_traffic": "false",
    "zonal_shift.config.enabled": "false",
    "secondary_ips.auto_assigned.per_subnet": "0",
}
TG_ATTRS = {
    "deregistration_delay.timeout_seconds": "300",
    "deregistration_delay.connection_termination.enabled": "false",
    "stickiness.enabled": "false",
    "stickiness.type": "source_ip",
    "proxy_protocol_v2.enabled": "false",
    "preserve_client_ip.enabled": "true",
    "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
    "target_health_state.unhealthy.connection_termination.enabled": "true",
    "target_health_state.unhealthy.draining_interval_seconds": "0",
    "target_group_health.dns_failover.minimum_healthy_targets.count": "1",
    "target_group_health.dns_failover.minimum_healthy_targets.percentage": "off",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "1",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
    "load_balancing.algorithm.type": "round_robin",
}
B = M.ELBv2Backend
# ---------------------------------------------------------------- load balancers
_create = B.create_load_balancer


def create_load_balancer(
    self,
    name,
    security_groups,
    subnet_ids,
    subnet_mappings=None,
    scheme=None,
    loadbalancer_type=None,
    ip_address_type="ipv4",
    tags=None,
):
    scheme = scheme or "internet-facing"
    if len(name) > 32:
        raise X.ValidationError(f"The load balancer name '{name}' cannot be longer than '32' characters")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", name):
        raise X.ValidationError(
            f"The load balancer name '{name}' can only contain characters that are alphanumeric characters or hyphens(-)"
        )
    if name.startswith("internal-"):
        raise X.ValidationError(f"The load balancer name '{name}' cannot begin with 'internal-'")
    if scheme not in ("internet-facing", "internal"):
        raise X.ValidationError(
            f"1 validation error detected: Value '{scheme}' at 'scheme' failed to satisfy constraint: Member must satisfy enum value set: [internal, internet-facing]"
        )
    if not subnet_ids and not subnet_mappings:
        raise X.ValidationError("At least one subnet must be specified")
    sn = list(subnet_ids or []) + [m["SubnetId"] for m in subnet_mappings or []]
    for s in sn:
        try:
            self.ec2_backend.get_subnet(s)
        except Exception:
            raise E("InvalidSubnet", f"The subnet ID '{s}' is not valid")
    if len({self.ec2_backend.get_subnet(s).availability_zone for s in sn}) < len(sn):
        raise X.InvalidConfigurationRequest(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone"
        )
    for g in security_groups or []:
        if self.ec2_backend.get_security_group_from_id(g) is None:
            raise E("InvalidSecurityGroup", f"Security group '{g}' is not valid")
    want = (scheme, loadbalancer_type or "application", ip_address_type, sorted(sn), sorted(security_groups or []))
    for lb in self.load_balancers.values():
        if lb.name == name:
            if want == (
                lb.scheme,
                lb.type,
                lb.ip_address_type,
                sorted(s.id for s in lb.subnets),
                sorted(lb.security_groups or []),
            ):
                return lb
            raise E(
                "DuplicateLoadBalancerName",
                f"A load balancer with the same name '{name}' exists, but with different settings",
            )
    maps = {m["SubnetId"]: m for m in subnet_mappings or []}
    for m in maps.values():
        if a := m.get("AllocationId"):
            hit = (
                [x for x in self.ec2_backend.addresses if x.allocation_id == a]
                if not isinstance(self.ec2_backend.addresses, dict)
                else [x for x in self.ec2_backend.addresses.values() if x.allocation_id == a]
            )
            if not hit:
                raise E("AllocationIdNotFound", f"The allocation IDs '{a}' do not exist")
            if hit[0].association_id:
                raise E("ResourceInUse", f"The allocation IDs are not available for use")
            m["_eip"] = hit[0]
    _type["t"] = {"network": "net", "gateway": "gwy"}.get(loadbalancer_type, "app")
    lb = _create(
        self, name, security_groups, subnet_ids, subnet_mappings, scheme, loadbalancer_type, ip_address_type, tags
    )
    h = lb.arn.rsplit("/", 1)[1]
    lb._maps = maps
    lb._polls = PP
    lb._had_sg = bool(security_groups)
    if lb.type == "network":
        lb.dns_name = f"{name}-{h}.elb.{self.region_name}.amazonaws.com"
        lb.attrs = dict(NLB_ATTRS)
    for m in maps.values():
        if "_eip" in m:
            m["_eip"].association_id = "eipassoc-" + h + "f"
    return lb


B.create_load_balancer = create_load_balancer


def azs(self):
    out = []
    for s in self.subnets:
        z = M.AvailabilityZone(s)
        m = getattr(self, "_maps", {}).get(s.id, {})
        a = {}
        if "_eip" in m:
            a = {"AllocationId": m["AllocationId"], "IpAddress": m["_eip"].public_ip}
        if m.get("PrivateIPv4Address"):
            a["PrivateIPv4Address"] = m["PrivateIPv4Address"]
        z.load_balancer_addresses = [a] if a else []
        out.append(z)
    return out


M.FakeLoadBalancer.availability_zones = property(azs)


def activate(self):
    if self.state == "provisioning":
        self._polls = getattr(self, "_polls", PP) - 1
        if self._polls < 0:
            self.state = "active"


M.FakeLoadBalancer.activate = activate


def describe_load_balancers(self, arns, names):
    if not arns and not names:
        r = list(self.load_balancers.values())
    else:
        r = []
        for a in arns or []:
            if a not in self.load_balancers:
                raise X.LoadBalancerNotFoundError()
            r.append(self.load_balancers[a])
        for n in names or []:
            hit = [l for l in self.load_balancers.values() if l.name == n]
            if not hit:
                raise E("LoadBalancerNotFound", f"Load balancers '[{n}]' not found")
            r += hit
    for l in r:
        l.activate()
    return r


B.describe_load_balancers = describe_load_balancers


def delete_load_balancer(self, arn):
    lb = self.load_balancers.get(arn)
    if lb is None:
        return
    if lb.attrs.get("deletion_protection.enabled") == "true":
        raise E(
            "OperationNotPermitted", f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
        )
    for m in getattr(lb, "_maps", {}).values():
        if "_eip" in m:
            m["_eip"].association_id = None
    self.load_balancers.pop(arn)
    _sync(self)
    self.tagging_service.delete_all_tags_for_resource(arn)


B.delete_load_balancer = delete_load_balancer
_modattr = B.modify_load_balancer_attributes


def modify_load_balancer_attributes(self, arn, attrs):
    lb = self.load_balancers.get(arn)
    if lb is not None and lb.type == "network":
        for k, v in attrs.items():
            if k not in NLB_ATTRS:
                raise X.InvalidConfigurationRequest(
                    f"Load balancer attribute key '{k}' is not supported on load balancers with type 'network'"
                    if k in lb.VALID_ATTRS
                    else f"Load balancer attribute key '{k}' is not recognized"
                )
            if k.endswith(".enabled") and v not in ("true", "false"):
                raise X.InvalidConfigurationRequest(f"The value of '{k}' must be 'true' or 'false'")
    return _modattr(self, arn, attrs)


B.modify_load_balancer_attributes = modify_load_balancer_attributes
_setsg = B.set_security_groups


def set_security_groups(self, arn, sgs):
    lb = self.load_balancers.get(arn)
    if lb is not None and lb.type == "network" and not getattr(lb, "_had_sg", True):
        raise X.InvalidConfigurationRequest(
            "You cannot set security groups on a Network Load Balancer that was created without security groups"
        )
    return _setsg(self, arn, sgs)


B.set_security_groups = set_security_groups
_setsub = B.set_subnets


def set_subnets(self, arn, subnets, mappings):
    lb = self.load_balancers.get(arn)
    if lb is None or lb.type != "network":
        return _setsub(self, arn, subnets, mappings)
    zones, objs = {}, []
    for s in list(subnets) + [m["SubnetId"] for m in mappings]:
        o = self._get_subnet(zones, s)
        zones[o.availability_zone] = o.id
        objs.append(o)
    lb.subnets = objs
    lb._maps.update({m["SubnetId"]: m for m in mappings})
    return lb.availability_zones


B.set_subnets = set_subnets
# ---------------------------------------------------------------- security groups
from moto.ec2 import models as EC2
from moto.ec2.exceptions import EC2ClientError

ENI = int(os.environ.get("ENI_DETACH_POLLS", 1))
DETACHING = {}
_dlb = B.delete_load_balancer


def delete_load_balancer(self, arn):
    lb = self.load_balancers.get(arn)
    groups = list(lb.security_groups or []) if lb is not None else []
    _dlb(self, arn)
    DETACHING.update({group: ENI for group in groups})


B.delete_load_balancer = delete_load_balancer
_dsg = EC2.EC2Backend.delete_security_group


def delete_security_group(self, name=None, group_id=None):
    """A group in front of a load balancer stays for as long as its network interfaces do."""
    backend = M.elbv2_backends[self.account_id][self.region_name]
    used = any(group_id in (lb.security_groups or []) for lb in backend.load_balancers.values())
    if used or DETACHING.get(group_id, 0) > 0:
        DETACHING[group_id] = DETACHING.get(group_id, 1) - 1
        raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
    DETACHING.pop(group_id, None)
    return _dsg(self, name=name, group_id=group_id)


EC2.EC2Backend.delete_security_group = delete_security_group
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix


def get_tags(self):
    """moto looks through the tags of all things for those of one, which with a thousand groups takes it ten seconds a call."""
    if not self.id:
        return []
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "")
    own = self.ec2_backend.tags.get(self.id, {})
    return [{"resource_id": self.id, "key": k, "value": v, "resource_type": kind} for k, v in own.items()]


TaggedEC2Resource.get_tags = get_tags
# ---------------------------------------------------------------- target groups
_ctg = B.create_target_group


def create_target_group(self, name, **kw):
    for tg in self.target_groups.values():
        if tg.name == name:
            same = (tg.protocol, str(tg.port), tg.vpc_id, tg.target_type) == (
                kw.get("protocol"),
                str(kw.get("port")),
                kw.get("vpc_id"),
                kw.get("target_type") or "instance",
            )
            if same and all(
                kw.get(k) in (None, getattr(tg, a), str(getattr(tg, a)))
                for k, a in (
                    ("healthcheck_protocol", "health_check_protocol"),
                    ("healthcheck_port", "health_check_port"),
                    ("healthcheck_interval_seconds", "health_check_interval_seconds"),
                )
            ):
                return tg
            raise E(
                "DuplicateTargetGroupName",
                f"A target group with the same name '{name}' exists, but with different settings",
            )
    i, t, h, u = (
        kw.get("healthcheck_interval_seconds"),
        kw.get("healthcheck_timeout_seconds"),
        kw.get("healthy_threshold_count"),
        kw.get("unhealthy_threshold_count"),
    )
    if i is not None and not 5 <= int(i) <= 300:
        raise X.ValidationError(f"Health check interval '{i}' must be between '5' and '300'")
    for n, v in (("Healthy", h), ("Unhealthy", u)):
        if v is not None and not 2 <= int(v) <= 10:
            raise X.ValidationError(f"{n} threshold count '{v}' must be between '2' and '10'")
    if kw.get("protocol") in ("TCP", "UDP", "TCP_UDP", "TLS") and kw.get("healthcheck_protocol") in (
        "UDP",
        "TCP_UDP",
        "TLS",
    ):
        raise X.ValidationError(f"Health check protocol '{kw['healthcheck_protocol']}' is not supported")
    tg = _ctg(self, name, **kw)
    if tg.protocol in ("TCP", "UDP", "TCP_UDP", "TLS"):
        tg.attributes = dict(TG_ATTRS)
        tg.attributes["preserve_client_ip.enabled"] = (
            "true" if tg.target_type == "instance" or tg.protocol in ("UDP", "TCP_UDP") else "false"
        )
    return tg


B.create_target_group = create_target_group
_mtga = B.modify_target_group_attributes


def modify_target_group_attributes(self, target_group_arn, attributes):
    tg = self.target_groups.get(target_group_arn)
    if tg is not None and tg.protocol in ("TCP", "UDP", "TCP_UDP", "TLS"):
        for k in attributes:
            if k not in TG_ATTRS:
                raise X.ValidationError(f"Target group attribute key '{k}' is not recognized")
    return _mtga(self, target_group_arn, attributes)


B.modify_target_group_attributes = modify_target_group_attributes
_mtg = B.modify_target_group


def modify_target_group(self, arn, *a, **k):
    tg = _mtg(self, arn, *a, **k)
    if len(a) > 7 and a[7] is not None:
        # moto keeps a matcher only where the traffic is HTTP; an NLB has one where the check is.
        tg.matcher = {"HttpCode": a[7]}
    if tg.health_check_protocol == "TCP":
        tg.health_check_path = None
        tg.matcher = None
    return tg


B.modify_target_group = modify_target_group
B.delete_target_group = (lambda f: lambda self, arn: f(self, arn) if arn in self.target_groups else None)(
    B.delete_target_group
)
T = M.FakeTargetGroup


def key(self, t):
    return f"{t['Id']}|{t.get('Port') or self.port}"


def _quoted(ids):
    return ", ".join(f"'{id}'" for id in dict.fromkeys(ids))


def _instances(self, targets):
    """A call is refused for one target, and the words name all that share its fault."""
    ids = [t["Id"] for t in targets]
    if odd := [id for id in ids if not id.startswith("i-")]:
        raise X.ValidationError(f"Instance ID '{odd[0]}' is not valid")
    found = {id: self.ec2_backend.get_instance_by_id(id) for id in ids}
    if gone := [id for id, instance in found.items() if instance is None]:
        raise E("InvalidTarget", f"The following instances do not exist: {_quoted(gone)}")
    if strays := [id for id, instance in found.items() if instance.vpc_id not in (None, self.vpc_id)]:
        raise E("InvalidTarget", f"The following targets are not in the target group VPC '{self.vpc_id}': {_quoted(strays)}")
    if still := [id for id, instance in found.items() if instance.state != "running"]:
        raise E(
            "InvalidTarget",
            f"The following targets are not in a running state and cannot be registered: {_quoted(still)}",
        )


def _addresses(self, targets):
    """The words name the first one. Those of other private networks need an Availability Zone, which ours never name."""
    import ipaddress

    vpc = self.ec2_backend.get_vpc(self.vpc_id)
    nets = [ipaddress.ip_network(a["cidr_block"]) for a in vpc.get_cidr_block_association_set()]
    private = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")]
    for t in targets:
        try:
            ip = ipaddress.ip_address(t["Id"])
        except ValueError:
            raise X.ValidationError(f"The IP address '{t['Id']}' is not a valid IPv4 address")
        if ip.version == 6 or any(ip in n for n in nets):
            continue
        if not any(ip in n for n in private):
            raise X.ValidationError(f"The IP address '{t['Id']}' is not within a valid CIDR block range")
        if t.get("AvailabilityZone") != "all":
            raise X.ValidationError(
                f"The Availability Zone is required for IP address '{t['Id']}' because it is not in the VPC"
            )


def register(self, targets):
    if self.target_type == "instance":
        _instances(self, targets)
    elif self.target_type == "ip":
        _addresses(self, targets)
    for t in targets:
        k = key(self, t)
        self.deregistered_targets.pop(k, None)
        self.targets.setdefault(
            k,
            {
                "Id": t["Id"],
                "Port": t.get("Port") or self.port,
                "AvailabilityZone": t.get("AvailabilityZone"),
                "_polls": IP_,
            },
        )


def deregister(self, targets):
    for t in targets:
        ks = [key(self, t)] if t.get("Port") else [k for k in self.targets if k.split("|")[0] == t["Id"]]
        for k in ks:
            if x := self.targets.pop(k, None):
                self.deregistered_targets[k] = dict(x, _polls=DP)


T.register, T.deregister = register, deregister


def health(self, t, registered):
    S = lambda st, r=None, d=None: M.FakeHealthStatus(
        t["Id"],
        t["Port"],
        str(t["Port"]) if self.health_check_port in (None, "traffic-port") else self.health_check_port,
        st,
        r,
        d,
    )
    if not registered:
        return S("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
    if not self.load_balancer_arns:
        return S(
            "unused", "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer"
        )
    if o := HEALTH.get(f"{t['Id']}:{t['Port']}") or HEALTH.get("*"):
        return S(o["state"], o.get("reason"), o.get("description"))
    if found := refusals.aside(self, t):
        return S(*found)
    if t.get("_polls", 0) > 0:
        t["_polls"] -= 1
        return S("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
    return S("healthy")


def describe_target_health(self, target_group_arn, targets):
    tg = self.target_groups.get(target_group_arn)
    if tg is None:
        raise X.TargetGroupNotFoundError()
    out = []
    for k, t in list(tg.deregistered_targets.items()):
        if t["_polls"] <= 0 or not tg.load_balancer_arns:
            tg.deregistered_targets.pop(k)
    want = [key(tg, t) for t in targets] if targets else None
    for k in want if want is not None else list(tg.targets) + list(tg.deregistered_targets):
        if k in tg.targets:
            out.append(health(tg, tg.targets[k], True))
        elif k in tg.deregistered_targets:
            tg.deregistered_targets[k]["_polls"] -= 1
            out.append(health(tg, tg.deregistered_targets[k], False))
        else:
            i, p = k.split("|")
            out.append(
                M.FakeHealthStatus(
                    i,
                    p,
                    tg.health_check_port,
                    "unused",
                    "Target.NotRegistered",
                    "Target is not registered to the target group",
                )
            )
    return out


B.describe_target_health = describe_target_health
M.FakeHealthStatus.target = property(lambda s: {"Id": s.instance_id, "Port": int(s.port)})


# ---------------------------------------------------------------- listeners
def _tgs(self, actions):
    return [
        a
        for x in actions or []
        for a in self._get_target_group_arns_from(action_data=x if isinstance(x, dict) else x.data)
    ]


def _sync(self):
    use = {}
    for lb in self.load_balancers.values():
        for l in lb.listeners.values():
            for r in l.rules.values():
                for x in r.actions:
                    for a in self._get_target_group_arns_from(action_data=x.data):
                        use.setdefault(a, []).append(lb.arn)
    for tg in self.target_groups.values():
        tg.load_balancer_arns = list(dict.fromkeys(use.get(tg.arn, [])))


COMPAT = {"TCP": {"TCP", "TCP_UDP"}, "UDP": {"UDP", "TCP_UDP"}, "TCP_UDP": {"TCP_UDP"}, "TLS": {"TCP", "TLS"}}


def _check(self, lb, port, proto, actions, me=None):
    for l in lb.listeners.values():
        if l.arn != me and port is not None and str(l.port) == str(port):
            raise E("DuplicateListener", f"A listener already exists on this port for this load balancer '{lb.arn}'")
    for a in _tgs(self, actions):
        tg = self.target_groups.get(a)
        if tg is None:
            raise X.ActionTargetGroupNotFoundError(a)
        if lb.type == "network" and tg.protocol not in COMPAT.get(proto, ()):
            raise X.InvalidConfigurationRequest(
                f"Listener protocol '{proto}' is not supported with a target group with the protocol '{tg.protocol}'"
            )
        if set(tg.load_balancer_arns) - {lb.arn}:
            raise E(
                "TargetGroupAssociationLimit",
                f"The following target groups cannot be associated with more than one load balancer: {a}",
            )


_cl = B.create_listener


def create_listener(
    self, load_balancer_arn, protocol, port, ssl_policy, certificate, actions, alpn_policy=None, tags=None
):
    lb = self.load_balancers.get(load_balancer_arn)
    if lb is None:
        raise X.LoadBalancerNotFoundError()
    self._validate_port_and_protocol(lb.type, port, protocol)
    _check(self, lb, port, protocol, actions)
    if protocol in ("TLS", "HTTPS") and not certificate:
        raise X.ValidationError("A certificate must be specified for TLS listeners")
    l = _cl(
        self,
        load_balancer_arn,
        protocol,
        port,
        ssl_policy if protocol in ("TLS", "HTTPS") else None,
        certificate,
        actions,
        alpn_policy,
        tags,
    )
    _sync(self)
    return l


B.create_listener = create_listener


def modify_listener(self, arn, port=None, protocol=None, ssl_policy=None, certificates=None, actions=None):
    l = self.describe_listeners(None, [arn])[0]
    lb = self.load_balancers[l.load_balancer_arn]
    self._validate_port_and_protocol(lb.type, port or l.port, protocol or l.protocol)
    _check(self, lb, port, protocol or l.protocol, actions or [x.data for x in l.default_actions], me=arn)
    if port is not None:
        l.port = port
    if protocol:
        l.protocol = protocol
    if ssl_policy:
        l.ssl_policy = ssl_policy
    if certificates:
        l.certificate = certificates[0]["CertificateArn"]
        l.certificates = [c["CertificateArn"] for c in certificates]
    if actions:
        l.default_actions = [M.FakeAction(a) for a in actions]
        l._default_rule[0].actions = l.default_actions
    _sync(self)
    return l


B.modify_listener = modify_listener
_dl = B.delete_listener


def delete_listener(self, arn):
    r = _dl(self, arn)
    _sync(self)
    return r


B.delete_listener = delete_listener
# ---------------------------------------------------------------- tags, paging, faults
_dt = B.describe_tags


def describe_tags(self, arns):
    if len(arns) > 20:
        raise X.ValidationError("A maximum of 20 resources can be specified")
    for a in arns:
        self._get_resource_by_arn(a)
    return _dt(self, arns)


B.describe_tags = describe_tags


def add_tags(self, resource_arns, tags):
    arns = resource_arns
    for a in arns:
        self._get_resource_by_arn(a)
        if len(set(self.tagging_service.get_tag_dict_for_resource(a)) | {t["Key"] for t in tags}) > 50:
            raise X.TooManyTagsError()
    for a in arns:
        self.tagging_service.tag_resource(a, tags)


B.add_tags = add_tags


def pager(name, field, ident):
    orig = getattr(R.ELBV2Response, name)

    def f(self):
        size = self._get_int_param("PageSize", 400)
        mk = self._get_param("Marker")
        r = orig(self).result
        items = list(r[field])
        start = int(mk) if mk else 0
        return ActionResult(
            {
                field: items[start : start + size],
                "NextMarker": str(start + size) if len(items) > start + size else None,
            }
        )

    setattr(R.ELBV2Response, name, f)


def dlb(self):
    size = self._get_int_param("PageSize", 400)
    mk = self._get_param("Marker")
    start = int(mk) if mk else 0
    items = self.elbv2_backend.describe_load_balancers(
        self._get_param("LoadBalancerArns", []), self._get_param("Names", [])
    )
    return ActionResult(
        {
            "LoadBalancers": items[start : start + size],
            "NextMarker": str(start + size) if len(items) > start + size else None,
        }
    )


R.ELBV2Response.describe_load_balancers = dlb
pager("describe_target_groups", "TargetGroups", "arn")
pager("describe_listeners", "Listeners", "arn")
_ci = B.iter_tagged_resources


def iter_tagged_resources(self):
    yield from _ci(self)
    for lb in self.load_balancers.values():
        for l in lb.listeners.values():
            yield M.TaggedResource(
                arn=l.arn,
                tags=self.tagging_service.get_tag_dict_for_resource(l.arn),
                resource_type="elasticloadbalancing:listener",
            )
    for thing in TAGGED_ONLY:
        yield M.TaggedResource(arn=thing["arn"], tags=thing["tags"], resource_type=thing["type"])


B.iter_tagged_resources = iter_tagged_resources
from moto.core import responses as CR
from moto.resourcegroupstaggingapi.models import ResourceGroupsTaggingAPIBackend as RG

_gr = RG.get_resources


def get_resources(self, *args, **kw):
    """moto ends a page after 100 tags, asked or not; AWS after as many resources as were asked for."""
    return _gr(self, *args, **{**kw, "tags_per_page": 1 << 30})


RG.get_resources = get_resources

_call = R.ELBV2Response.call_action


def call_action(self):
    act = self._get_action()
    for f in FAULTS:
        if f["action"] in (act, "*") and f.get("times", 1) > 0:
            f["times"] = f.get("times", 1) - 1
            ex = E(f.get("code", "Throttling"), f.get("message", "Rate exceeded"))

            def boom(ex=ex):
                raise ex

            setattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", act).lower(), boom)
            break
    return _call(self)


R.ELBV2Response.call_action = call_action
import families  # IPv6: source NAT, chosen addresses
import limits  # how many load balancers an account may have
import listeners  # further certificates, attributes of listeners
import refusals  # what AWS refuses or holds on to that moto does not

_check = families.listener_check(_check)
import moto.server as MS, moto.moto_server.werkzeug_app as WA

_app = WA.DomainDispatcherApplication.__call__


def wsgi(self, environ, start_response):
    p = environ.get("PATH_INFO", "")
    raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if p.startswith("/moto-strict/"):
        body = json.loads(raw or b"{}")
        answer = b"{}"
        if p.endswith("/tagged-only"):
            TAGGED_ONLY.extend(body)
        if p.endswith("/calls"):
            answer = json.dumps(CALLS, sort_keys=True).encode()
            CALLS.clear()
        if p.endswith("/health"):
            HEALTH.update({body["target"]: body}) if body.get("state") else HEALTH.pop(body["target"], None)
        if p.endswith("/fault"):
            FAULTS.append(body)
        if p.endswith("/quota"):
            limits.QUOTA.update(body)
        if p.endswith("/pace"):
            refusals.PACE.update(body)
        if p.endswith("/subnet"):
            refusals.subnet(EC2.ec2_backends["123456789012"]["us-east-1"], **body)
        if p.endswith("/clear"):
            HEALTH.clear()
            FAULTS.clear()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [answer]
    target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    CALLS[target or parse_qs(raw.decode("utf-8", "replace")).get("Action", ["?"])[0]] += 1
    environ["wsgi.input"] = io.BytesIO(raw)
    # One call after another: moto's dictionaries are no more than dictionaries.
    with ONE_BY_ONE:
        return _app(self, environ, start_response)


WA.DomainDispatcherApplication.__call__ = wsgi


def serve(host, port, app, *, threaded, request_handler, **_):
    """Tells where it listens: port 0 is one that nobody else has."""
    from werkzeug.serving import make_server

    server = make_server(host, port, app, threaded=threaded, request_handler=request_handler)
    print(f"http://{host}:{server.server_port}", flush=True)
    server.serve_forever()


MS.run_simple = serve
if __name__ == "__main__":
    MS.main(sys.argv[1:])
