"""What moto does not know of IPv6 on Network Load Balancers: prefixes for source NAT, chosen addresses, and UDP there.

Owns: EnablePrefixForIpv6SourceNat, SourceNatIpv6Prefix and IPv6Address, in CreateLoadBalancer, SetSubnets and what is
shown; and who refuses whom: UDP listeners on dual-stack load balancers. Leaves to load_balancers.py: everything else.
The codes and words of its refusals are guesses; that AWS refuses is documented.
"""

import ipaddress

from moto.elbv2 import exceptions as X, models as M, responses as R

B = M.ELBv2Backend
ASKED = {}
UDP = ("UDP", "TCP_UDP")


def _refuse(words):
    raise X.InvalidConfigurationRequest(words)


def _ranges(subnet):
    found = subnet.ipv6_cidr_block_associations.values()
    return [ipaddress.ip_network(one["ipv6CidrBlock"]) for one in found]


def _mapping(subnet, mapping, nat):
    """The addresses that a subnet's part of the load balancer has, checked."""
    ranges = _ranges(subnet)
    if not ranges:
        _refuse(f"The subnet '{subnet.id}' must have an IPv6 CIDR block for a load balancer with IP address type 'dualstack'")
    if asked := mapping.get("IPv6Address"):
        if not any(ipaddress.ip_address(asked) in one for one in ranges):
            _refuse(f"The IPv6 address '{asked}' is not in the CIDR block of subnet '{subnet.id}'")
    prefix = mapping.get("SourceNatIpv6Prefix")
    if prefix and not nat:
        _refuse("A source NAT IPv6 prefix needs EnablePrefixForIpv6SourceNat to be 'on'")
    if prefix in (None, "auto_assigned"):
        prefix = str(ipaddress.ip_network((int(ranges[0].network_address) + (0xF << 48), 80)))
    net = ipaddress.ip_network(prefix)
    if net.prefixlen != 80 or not any(net.subnet_of(one) for one in ranges):
        _refuse(f"The source NAT IPv6 prefix '{prefix}' is not a /80 of subnet '{subnet.id}'")
    return asked, prefix if nat else None


def _nat(lb):
    return getattr(lb, "enable_prefix_for_ipv6_source_nat", "off") == "on"


def _protocols(lb):
    return [listener.protocol for listener in lb.listeners.values()]


def _fits(kind, nat, protocols):
    if nat and kind != "dualstack":
        _refuse("Prefixes for IPv6 source NAT are only supported with IP address type 'dualstack'")
    if kind == "dualstack" and not nat and any(protocol in UDP for protocol in protocols):
        _refuse("UDP listeners on a load balancer with IP address type 'dualstack' need EnablePrefixForIpv6SourceNat to be 'on'")


def _give(self, lb, kind, nat, mappings):
    _fits(kind, nat, _protocols(lb))
    given = {}
    if kind == "dualstack" and (nat or any(one.get("IPv6Address") for one in mappings.values())):
        for subnet in lb.subnets:
            given[subnet.id] = _mapping(subnet, mappings.get(subnet.id, {}), nat)
    elif any(one.get("IPv6Address") for one in mappings.values()):
        _refuse("IPv6 addresses are only supported with IP address type 'dualstack'")
    lb.ip_address_type, lb.enable_prefix_for_ipv6_source_nat, lb._ipv6 = kind, "on" if nat else "off", given


_create = B.create_load_balancer


def create_load_balancer(self, name, *args, **kw):
    known = any(lb.name == name for lb in self.load_balancers.values())
    lb = _create(self, name, *args, **kw)
    if lb.type != "network" or known:
        return lb
    mappings = {one["SubnetId"]: one for one in kw.get("subnet_mappings") or []}
    try:
        _give(self, lb, lb.ip_address_type, ASKED.get("nat") == "on", mappings)
    except Exception:
        self.load_balancers.pop(lb.arn)
        raise
    return lb


_set_subnets = B.set_subnets


def set_subnets(self, arn, subnets, mappings):
    lb = self.load_balancers.get(arn)
    if lb is None or lb.type != "network":
        return _set_subnets(self, arn, subnets, mappings)
    before = list(lb.subnets)
    _set_subnets(self, arn, subnets, mappings)
    kind = ASKED.get("kind") or lb.ip_address_type
    asked = {one["SubnetId"]: dict(one) for one in mappings}
    for id, (address, _) in getattr(lb, "_ipv6", {}).items():
        if id in asked and address:
            asked[id].setdefault("IPv6Address", address)
    try:
        _give(self, lb, kind, ASKED.get("nat") == "on", asked)
    except Exception:
        lb.subnets = before
        raise
    return lb.availability_zones


_set_type = B.set_ip_address_type


def set_ip_address_type(self, arn, ip_type):
    lb = self.load_balancers.get(arn)
    if lb is not None and lb.type == "network":
        _fits(ip_type, _nat(lb), _protocols(lb))
    return _set_type(self, arn, ip_type)


_azs = M.FakeLoadBalancer.availability_zones.fget


def azs(self):
    zones = _azs(self)
    for zone in zones:
        address, prefix = getattr(self, "_ipv6", {}).get(zone.subnet_id, (None, None))
        if address:
            first = dict(zone.load_balancer_addresses[0]) if zone.load_balancer_addresses else {}
            zone.load_balancer_addresses = [{**first, "IPv6Address": address}]
        zone.source_nat_ipv6_prefixes = [prefix] if prefix else []
    return zones


def asking(name):
    original = getattr(R.ELBV2Response, name)

    def call(self):
        ASKED.clear()
        ASKED.update(nat=self._get_param("EnablePrefixForIpv6SourceNat"), kind=self._get_param("IpAddressType"))
        return original(self)

    setattr(R.ELBV2Response, name, call)


def check_udp(lb, protocol):
    if lb.type == "network":
        _fits(lb.ip_address_type, _nat(lb), [protocol])


B.create_load_balancer = create_load_balancer
B.set_subnets = set_subnets
B.set_ip_address_type = set_ip_address_type
M.FakeLoadBalancer.availability_zones = property(azs)
asking("create_load_balancer")
asking("set_subnets")
