"""Target groups and targets: settings, attributes, who may be a target, and their health.

Leaves to others: refusals by the documents, zones (refusals.py).
env: TG_INITIAL_POLLS, describes until a target has been asked for its health (1); TG_DRAIN_POLLS, describes that a removed
target stays draining (2).
"""

import ipaddress
import os

from moto.elbv2 import exceptions, models
from moto.elbv2.exceptions import ELBClientError

Backend = models.ELBv2Backend
INITIAL_POLLS = int(os.environ.get("TG_INITIAL_POLLS", 1))
DRAIN_POLLS = int(os.environ.get("TG_DRAIN_POLLS", 2))
HEALTH = {}
ATTRIBUTES = {
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
_create = Backend.create_target_group


def create_target_group(self, name, **keywords):
    for tg in self.target_groups.values():
        if tg.name == name:
            same = (tg.protocol, str(tg.port), tg.vpc_id, tg.target_type) == (
                keywords.get("protocol"),
                str(keywords.get("port")),
                keywords.get("vpc_id"),
                keywords.get("target_type") or "instance",
            )
            if same and all(
                keywords.get(asked) in (None, getattr(tg, there), str(getattr(tg, there)))
                for asked, there in (
                    ("healthcheck_protocol", "health_check_protocol"),
                    ("healthcheck_port", "health_check_port"),
                    ("healthcheck_interval_seconds", "health_check_interval_seconds"),
                )
            ):
                return tg
            raise ELBClientError(
                "DuplicateTargetGroupName",
                f"A target group with the same name '{name}' exists, but with different settings",
            )
    interval = keywords.get("healthcheck_interval_seconds")
    if interval is not None and not 5 <= int(interval) <= 300:
        raise exceptions.ValidationError(f"Health check interval '{interval}' must be between '5' and '300'")
    healthy, unhealthy = keywords.get("healthy_threshold_count"), keywords.get("unhealthy_threshold_count")
    for name_of, count in (("Healthy", healthy), ("Unhealthy", unhealthy)):
        if count is not None and not 2 <= int(count) <= 10:
            raise exceptions.ValidationError(f"{name_of} threshold count '{count}' must be between '2' and '10'")
    if keywords.get("protocol") in ("TCP", "UDP", "TCP_UDP", "TLS") and keywords.get("healthcheck_protocol") in (
        "UDP",
        "TCP_UDP",
        "TLS",
    ):
        raise exceptions.ValidationError(f"Health check protocol '{keywords['healthcheck_protocol']}' is not supported")
    tg = _create(self, name, **keywords)
    if tg.protocol in ("TCP", "UDP", "TCP_UDP", "TLS"):
        tg.attributes = dict(ATTRIBUTES)
        tg.attributes["preserve_client_ip.enabled"] = (
            "true" if tg.target_type == "instance" or tg.protocol in ("UDP", "TCP_UDP") else "false"
        )
    return tg


Backend.create_target_group = create_target_group
_modify_attributes = Backend.modify_target_group_attributes


def modify_target_group_attributes(self, target_group_arn, attributes):
    tg = self.target_groups.get(target_group_arn)
    if tg is not None and tg.protocol in ("TCP", "UDP", "TCP_UDP", "TLS"):
        for attribute in attributes:
            if attribute not in ATTRIBUTES:
                raise exceptions.ValidationError(f"Target group attribute key '{attribute}' is not recognized")
    return _modify_attributes(self, target_group_arn, attributes)


Backend.modify_target_group_attributes = modify_target_group_attributes
_modify = Backend.modify_target_group


def modify_target_group(self, arn, *arguments, **keywords):
    tg = _modify(self, arn, *arguments, **keywords)
    if len(arguments) > 7 and arguments[7] is not None:
        # moto keeps a matcher only where the traffic is HTTP; an NLB has one where the check is.
        tg.matcher = {"HttpCode": arguments[7]}
    if tg.health_check_protocol == "TCP":
        tg.health_check_path = None
        tg.matcher = None
    return tg


Backend.modify_target_group = modify_target_group
_delete = Backend.delete_target_group


def delete_target_group(self, arn):
    return _delete(self, arn) if arn in self.target_groups else None


Backend.delete_target_group = delete_target_group
TargetGroup = models.FakeTargetGroup


def key_of(self, target):
    return f"{target['Id']}|{target.get('Port') or self.port}"


def _quoted(ids):
    return ", ".join(f"'{id}'" for id in dict.fromkeys(ids))


def _instances(self, targets):
    """A call is refused for one target, and the words name all that share its fault."""
    ids = [target["Id"] for target in targets]
    if odd := [id for id in ids if not id.startswith("i-")]:
        raise exceptions.ValidationError(f"Instance ID '{odd[0]}' is not valid")
    found = {id: self.ec2_backend.get_instance_by_id(id) for id in ids}
    if gone := [id for id, instance in found.items() if instance is None]:
        raise ELBClientError("InvalidTarget", f"The following instances do not exist: {_quoted(gone)}")
    if outside := [id for id, instance in found.items() if instance.vpc_id not in (None, self.vpc_id)]:
        raise ELBClientError("InvalidTarget", f"The following targets are not in the target group VPC '{self.vpc_id}': {_quoted(outside)}")
    if still := [id for id, instance in found.items() if instance.state != "running"]:
        raise ELBClientError(
            "InvalidTarget",
            f"The following targets are not in a running state and cannot be registered: {_quoted(still)}",
        )


def _addresses(self, targets):
    """The words name the first one. Those of other private networks need an Availability Zone, which ours never name."""
    vpc = self.ec2_backend.get_vpc(self.vpc_id)
    nets = [ipaddress.ip_network(one["cidr_block"]) for one in vpc.get_cidr_block_association_set()]
    private = [ipaddress.ip_network(net) for net in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")]
    for target in targets:
        try:
            ip = ipaddress.ip_address(target["Id"])
        except ValueError:
            raise exceptions.ValidationError(f"The IP address '{target['Id']}' is not a valid IPv4 address")
        if ip.version == 6 or any(ip in net for net in nets):
            continue
        if not any(ip in net for net in private):
            raise exceptions.ValidationError(f"The IP address '{target['Id']}' is not within a valid CIDR block range")
        if target.get("AvailabilityZone") != "all":
            raise exceptions.ValidationError(
                f"The Availability Zone is required for IP address '{target['Id']}' because it is not in the VPC"
            )


def register(self, targets):
    if self.target_type == "instance":
        _instances(self, targets)
    elif self.target_type == "ip":
        _addresses(self, targets)
    for target in targets:
        key = key_of(self, target)
        self.deregistered_targets.pop(key, None)
        self.targets.setdefault(
            key,
            {
                "Id": target["Id"],
                "Port": target.get("Port") or self.port,
                "AvailabilityZone": target.get("AvailabilityZone"),
                "_polls": INITIAL_POLLS,
            },
        )


def deregister(self, targets):
    for target in targets:
        if target.get("Port"):
            keys = [key_of(self, target)]
        else:
            keys = [key for key in self.targets if key.split("|")[0] == target["Id"]]
        for key in keys:
            if registered := self.targets.pop(key, None):
                self.deregistered_targets[key] = dict(registered, _polls=DRAIN_POLLS)


TargetGroup.register, TargetGroup.deregister = register, deregister


def health(self, target, registered):
    import refusals  # which comes after this: its functions call those here

    def status(state, reason=None, description=None):
        traffic = self.health_check_port in (None, "traffic-port")
        port = str(target["Port"]) if traffic else self.health_check_port
        return models.FakeHealthStatus(target["Id"], target["Port"], port, state, reason, description)

    if not registered:
        return status("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
    if not self.load_balancer_arns:
        return status(
            "unused", "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer"
        )
    if asked := HEALTH.get(f"{target['Id']}:{target['Port']}") or HEALTH.get("*"):
        return status(asked["state"], asked.get("reason"), asked.get("description"))
    if found := refusals.aside(self, target):
        return status(*found)
    if target.get("_polls", 0) > 0:
        target["_polls"] -= 1
        return status("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
    return status("healthy")


def describe_target_health(self, target_group_arn, targets):
    tg = self.target_groups.get(target_group_arn)
    if tg is None:
        raise exceptions.TargetGroupNotFoundError()
    shown = []
    for key, target in list(tg.deregistered_targets.items()):
        if target["_polls"] <= 0 or not tg.load_balancer_arns:
            tg.deregistered_targets.pop(key)
    asked = [key_of(tg, target) for target in targets] if targets else None
    for key in asked if asked is not None else list(tg.targets) + list(tg.deregistered_targets):
        if key in tg.targets:
            shown.append(health(tg, tg.targets[key], True))
        elif key in tg.deregistered_targets:
            tg.deregistered_targets[key]["_polls"] -= 1
            shown.append(health(tg, tg.deregistered_targets[key], False))
        else:
            id, port = key.split("|")
            words = "Target is not registered to the target group"
            shown.append(
                models.FakeHealthStatus(id, port, tg.health_check_port, "unused", "Target.NotRegistered", words)
            )
    return shown


Backend.describe_target_health = describe_target_health
models.FakeHealthStatus.target = property(
    lambda status: {"Id": status.instance_id, "Port": int(status.port)}
)
