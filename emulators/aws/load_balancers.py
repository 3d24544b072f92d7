"""Network Load Balancers: ARNs, names, settings, addresses, states.

Owns: what moto lacks or does otherwise with a load balancer. Leaves to others: IPv6 (families.py), quotas (limits.py), refusals by
the documents (refusals.py). env: NLB_PROVISION_POLLS, describes until a load balancer is active (2).
"""

import os
import re

import listeners
from moto.elbv2 import exceptions, models
from moto.elbv2.exceptions import ELBClientError

Backend = models.ELBv2Backend
PROVISION_POLLS = int(os.environ.get("NLB_PROVISION_POLLS", 2))
CREATING = {"type": "app"}


def make_arn(account_id, lb_id, name, region_name):
    return f'arn:aws:elasticloadbalancing:{region_name}:{account_id}:loadbalancer/{CREATING["type"]}/{name}/{lb_id}'


models.make_arn_for_load_balancer = make_arn
ATTRIBUTES = {
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
_create = Backend.create_load_balancer


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
        raise exceptions.ValidationError(f"The load balancer name '{name}' cannot be longer than '32' characters")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", name):
        raise exceptions.ValidationError(
            f"The load balancer name '{name}' can only contain characters that are alphanumeric characters or hyphens(-)"
        )
    if name.startswith("internal-"):
        raise exceptions.ValidationError(f"The load balancer name '{name}' cannot begin with 'internal-'")
    if scheme not in ("internet-facing", "internal"):
        raise exceptions.ValidationError(
            f"1 validation error detected: Value '{scheme}' at 'scheme' failed to satisfy constraint: Member must satisfy enum value set: [internal, internet-facing]"
        )
    if not subnet_ids and not subnet_mappings:
        raise exceptions.ValidationError("At least one subnet must be specified")
    asked = list(subnet_ids or []) + [mapping["SubnetId"] for mapping in subnet_mappings or []]
    for subnet in asked:
        try:
            self.ec2_backend.get_subnet(subnet)
        except Exception:
            raise ELBClientError("InvalidSubnet", f"The subnet ID '{subnet}' is not valid")
    if len({self.ec2_backend.get_subnet(subnet).availability_zone for subnet in asked}) < len(asked):
        raise exceptions.InvalidConfigurationRequest(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone"
        )
    for group in security_groups or []:
        if self.ec2_backend.get_security_group_from_id(group) is None:
            raise ELBClientError("InvalidSecurityGroup", f"Security group '{group}' is not valid")
    wanted = (scheme, loadbalancer_type or "application", ip_address_type, sorted(asked), sorted(security_groups or []))
    for lb in self.load_balancers.values():
        if lb.name == name:
            if wanted == (
                lb.scheme,
                lb.type,
                lb.ip_address_type,
                sorted(subnet.id for subnet in lb.subnets),
                sorted(lb.security_groups or []),
            ):
                return lb
            raise ELBClientError(
                "DuplicateLoadBalancerName",
                f"A load balancer with the same name '{name}' exists, but with different settings",
            )
    mappings = {mapping["SubnetId"]: mapping for mapping in subnet_mappings or []}
    for mapping in mappings.values():
        if allocation := mapping.get("AllocationId"):
            addresses = self.ec2_backend.addresses
            addresses = addresses.values() if isinstance(addresses, dict) else addresses
            found = [address for address in addresses if address.allocation_id == allocation]
            if not found:
                raise ELBClientError("AllocationIdNotFound", f"The allocation IDs '{allocation}' do not exist")
            if found[0].association_id:
                raise ELBClientError("ResourceInUse", f"The allocation IDs are not available for use")
            mapping["_eip"] = found[0]
    CREATING["type"] = {"network": "net", "gateway": "gwy"}.get(loadbalancer_type, "app")
    lb = _create(
        self, name, security_groups, subnet_ids, subnet_mappings, scheme, loadbalancer_type, ip_address_type, tags
    )
    digest = lb.arn.rsplit("/", 1)[1]
    lb._maps = mappings
    lb._polls = PROVISION_POLLS
    lb._had_sg = bool(security_groups)
    if lb.type == "network":
        lb.dns_name = f"{name}-{digest}.elb.{self.region_name}.amazonaws.com"
        lb.attrs = dict(ATTRIBUTES)
    for mapping in mappings.values():
        if "_eip" in mapping:
            mapping["_eip"].association_id = "eipassoc-" + digest + "f"
    return lb


Backend.create_load_balancer = create_load_balancer


def availability_zones(self):
    zones = []
    for subnet in self.subnets:
        zone = models.AvailabilityZone(subnet)
        mapping = getattr(self, "_maps", {}).get(subnet.id, {})
        address = {}
        if "_eip" in mapping:
            address = {"AllocationId": mapping["AllocationId"], "IpAddress": mapping["_eip"].public_ip}
        if mapping.get("PrivateIPv4Address"):
            address["PrivateIPv4Address"] = mapping["PrivateIPv4Address"]
        zone.load_balancer_addresses = [address] if address else []
        zones.append(zone)
    return zones


models.FakeLoadBalancer.availability_zones = property(availability_zones)


def activate(self):
    if self.state == "provisioning":
        self._polls = getattr(self, "_polls", PROVISION_POLLS) - 1
        if self._polls < 0:
            self.state = "active"


models.FakeLoadBalancer.activate = activate


def describe_load_balancers(self, arns, names):
    found = [] if arns or names else list(self.load_balancers.values())
    for arn in arns or []:
        if arn not in self.load_balancers:
            raise exceptions.LoadBalancerNotFoundError()
        found.append(self.load_balancers[arn])
    for name in names or []:
        named = [lb for lb in self.load_balancers.values() if lb.name == name]
        if not named:
            raise ELBClientError("LoadBalancerNotFound", f"Load balancers '[{name}]' not found")
        found += named
    for lb in found:
        lb.activate()
    return found


Backend.describe_load_balancers = describe_load_balancers


def delete_load_balancer(self, arn):
    lb = self.load_balancers.get(arn)
    if lb is None:
        return
    if lb.attrs.get("deletion_protection.enabled") == "true":
        raise ELBClientError(
            "OperationNotPermitted", f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
        )
    for mapping in getattr(lb, "_maps", {}).values():
        if "_eip" in mapping:
            mapping["_eip"].association_id = None
    self.load_balancers.pop(arn)
    listeners.count_uses(self)
    self.tagging_service.delete_all_tags_for_resource(arn)


Backend.delete_load_balancer = delete_load_balancer
_modify_attributes = Backend.modify_load_balancer_attributes


def modify_load_balancer_attributes(self, arn, attrs):
    lb = self.load_balancers.get(arn)
    if lb is not None and lb.type == "network":
        for key, value in attrs.items():
            if key not in ATTRIBUTES:
                raise exceptions.InvalidConfigurationRequest(
                    f"Load balancer attribute key '{key}' is not supported on load balancers with type 'network'"
                    if key in lb.VALID_ATTRS
                    else f"Load balancer attribute key '{key}' is not recognized"
                )
            if key.endswith(".enabled") and value not in ("true", "false"):
                raise exceptions.InvalidConfigurationRequest(f"The value of '{key}' must be 'true' or 'false'")
    return _modify_attributes(self, arn, attrs)


Backend.modify_load_balancer_attributes = modify_load_balancer_attributes
_set_security_groups = Backend.set_security_groups


def set_security_groups(self, arn, groups):
    lb = self.load_balancers.get(arn)
    if lb is not None and lb.type == "network" and not getattr(lb, "_had_sg", True):
        raise exceptions.InvalidConfigurationRequest(
            "You cannot set security groups on a Network Load Balancer that was created without security groups"
        )
    return _set_security_groups(self, arn, groups)


Backend.set_security_groups = set_security_groups
_set_subnets = Backend.set_subnets


def set_subnets(self, arn, subnets, mappings):
    lb = self.load_balancers.get(arn)
    if lb is None or lb.type != "network":
        return _set_subnets(self, arn, subnets, mappings)
    zones, found = {}, []
    for asked in list(subnets) + [mapping["SubnetId"] for mapping in mappings]:
        subnet = self._get_subnet(zones, asked)
        zones[subnet.availability_zone] = subnet.id
        found.append(subnet)
    lb.subnets = found
    lb._maps.update({mapping["SubnetId"]: mapping for mapping in mappings})
    return lb.availability_zones


Backend.set_subnets = set_subnets
