"""What Compute Engine demands of single load-balancing resources, and the defaults it fills in.

Owns: defaults, references between kinds, checks of one resource against the others.
Leaves to others: names, operations, storage (compute.py).
Sources: the field descriptions in the discovery document, the passthrough load balancer guides, and answers
recorded from the real service where there were any; what is only believed is listed in docs/gce.md.
"""

import base64
import hashlib
import ipaddress
import itertools
import json
import re

ROOT = "https://www.googleapis.com/compute/v1/"
EXTERNAL_POOL = ipaddress.ip_network("198.51.100.0/24")
INTERNAL_POOL = ipaddress.ip_network("10.128.0.0/20")  # the seeded subnetwork's range
EXTERNAL_POOL6 = ipaddress.ip_network("2600:1900:4000:a::/64")  # of the seeded subnetwork `default`
INTERNAL_POOL6 = ipaddress.ip_network("fd20:1:2:3::/64")  # of the seeded subnetwork `inside`

# Outgoing references: they must exist on insert, and stop a deletion of what they point at.
REFERENCES = {
    "forwardingRules": ["backendService", "target"],
    "backendServices": ["healthChecks", "backends[].group"],
    "targetPools": ["healthChecks", "instances"],
}
KINDS = {
    "addresses": "compute#address",
    "backendServices": "compute#backendService",
    "firewalls": "compute#firewall",
    "forwardingRules": "compute#forwardingRule",
    "healthChecks": "compute#healthCheck",
    "httpHealthChecks": "compute#httpHealthCheck",
    "instanceGroups": "compute#instanceGroup",
    "instances": "compute#instance",
    "networkEndpointGroups": "compute#networkEndpointGroup",
    "networks": "compute#network",
    "regions": "compute#region",
    "subnetworks": "compute#subnetwork",
    "targetPools": "compute#targetPool",
    "zones": "compute#zone",
}


class Failure(Exception):
    """An HTTP error: https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-api-errors"""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class OperationFailure(Exception):
    """An error that shows only in the operation, which the call has started successfully."""

    def __init__(self, code, message, http=400):
        super().__init__(message)
        self.code, self.message, self.http = code, message, http


def fingerprint(value):
    return base64.urlsafe_b64encode(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8]).decode()


def relative(url, project):
    """A full URL, projects/…, or a partial reference (zones/…, global/…) as projects/…"""
    path = re.sub(r"^https?://[^/]+/compute/(v1|beta|alpha)/", "", url).lstrip("/")
    return path if path.startswith("projects/") else f"projects/{project}/{path}"


def references(collection, resource):
    """Every reference of a resource, as projects/…"""
    for field in REFERENCES.get(collection, []):
        if "[]." in field:
            outer, inner = field.split("[].")
            values = [item.get(inner) for item in resource.get(outer, [])]
        else:
            value = resource.get(field)
            values = value if isinstance(value, list) else [value]
        yield from (relative(value, "") for value in values if value)


def normalize(collection, resource, project):
    """References come back as full URLs, whatever form they were given in."""
    full = lambda value: ROOT + relative(value, project)
    for field in REFERENCES.get(collection, []) + ["network", "subnetwork"]:
        if "[]." in field:
            outer, inner = field.split("[].")
            for item in resource.get(outer, []):
                item[inner] = full(item[inner])
        elif isinstance(resource.get(field), list):
            resource[field] = [full(value) for value in resource[field]]
        elif resource.get(field):
            resource[field] = full(resource[field])


def fill(collection, resource, project):
    """The defaults of the service."""
    network = f"{ROOT}projects/{project}/global/networks/default"
    defaults = {
        "addresses": {"addressType": "EXTERNAL", "description": "", "status": "RESERVED"},
        "healthChecks": {"checkIntervalSec": 5, "timeoutSec": 5, "healthyThreshold": 2, "unhealthyThreshold": 2},
        "httpHealthChecks": {"checkIntervalSec": 5, "timeoutSec": 5, "healthyThreshold": 2, "unhealthyThreshold": 2,
                             "host": "", "port": 80, "requestPath": "/"},
        "forwardingRules": {"IPProtocol": "TCP", "loadBalancingScheme": "EXTERNAL"},
        "backendServices": {
            "sessionAffinity": "NONE", "timeoutSec": 30, "loadBalancingScheme": "EXTERNAL", "protocol": "TCP",
            "connectionDraining": {"drainingTimeoutSec": 0},
        },
        "firewalls": {"direction": "INGRESS", "priority": 1000, "network": network, "disabled": False},
        "networkEndpointGroups": {"size": 0}, "instanceGroups": {"size": 0},
    }
    for key, value in defaults.get(collection, {}).items():
        resource.setdefault(key, value)
    external = "EXTERNAL" in (resource.get("addressType"), resource.get("loadBalancingScheme"))
    if collection in ("addresses", "forwardingRules"):
        if external:
            resource.setdefault("networkTier", "PREMIUM")
        elif collection == "forwardingRules":
            resource.setdefault("allowGlobalAccess", False)
        resource["labelFingerprint"] = fingerprint(resource.get("labels", {}))
    if collection in ("forwardingRules", "backendServices", "networks", "subnetworks", "instanceGroups"):
        resource["fingerprint"] = fingerprint({k: v for k, v in resource.items() if k != "fingerprint"})


def check(collection, resource, store):
    """Raises what the service answers to an impossible resource; allocates addresses."""
    checks = {
        "addresses": _address, "backendServices": _backend_service, "firewalls": _firewall,
        "forwardingRules": _forwarding_rule, "healthChecks": _health_check, "httpHealthChecks": _times,
        "networkEndpointGroups": _neg,
    }
    if collection in checks:
        checks[collection](resource, store)


def _invalid(field, message):
    return Failure(400, "invalid", f"Invalid value for field 'resource.{field}': {message}")


def users_of(ip, store):
    return [path for path, rule in store.of("forwardingRules") if rule.get("IPAddress", "").removesuffix("/96") == ip]


def _taken(ip, store):
    reserved = any(address.get("address") == ip for _, address in store.of("addresses"))
    nodes = any(nic.get("networkIP") == ip for _, instance in store.of("instances")
                for nic in instance.get("networkInterfaces", []))
    return reserved or nodes or bool(users_of(ip, store))


def _pool(external, six):
    if six:
        return EXTERNAL_POOL6 if external else INTERNAL_POOL6
    return EXTERNAL_POOL if external else INTERNAL_POOL


def _is_six(resource, ip):
    return resource.get("ipVersion") == "IPV6" or ":" in (ip or "")


def _dual_stack(resource, external, store):
    """IPv6 needs a subnetwork with IPv6 addresses of the right access."""
    if "subnetwork" not in resource:
        raise _invalid("subnetwork", "IPv6 needs one")
    subnet = store.get(relative(resource["subnetwork"], ""))
    if subnet.get("stackType", "IPV4_ONLY") == "IPV4_ONLY" or \
            subnet.get("ipv6AccessType") != ("EXTERNAL" if external else "INTERNAL"):
        raise _invalid("subnetwork", f"'{resource['subnetwork']}' has no IPv6 range of this access type")


def _allocate(external, store, six=False):
    pool = _pool(external, six)
    if six:
        hosts = (f"{range_.network_address}" for range_ in itertools.islice(pool.subnets(new_prefix=96), 1, 5000))
        return next(host for host in hosts if not _taken(host, store))
    for host in list(pool.hosts())[99:]:
        if not _taken(str(host), store):
            return str(host)
    raise Failure(403, "quotaExceeded", "Quota 'STATIC_ADDRESSES' exceeded.")


def _address(address, store):
    external, wanted = address["addressType"] == "EXTERNAL", address.get("address")
    if not external:
        address.setdefault("purpose", "GCE_ENDPOINT")
    six = _is_six(address, wanted)
    if not external and "subnetwork" not in address:
        raise _invalid("subnetwork", "an internal address needs one")
    if six:
        _dual_stack(address, external, store)
        address.update(ipVersion="IPV6", prefixLength=96)
        if external and address.get("networkTier", "PREMIUM") != "PREMIUM":
            raise _invalid("networkTier", "IPv6 is PREMIUM")
        if external and address.get("ipv6EndpointType") != "NETLB":
            raise _invalid("ipv6EndpointType", "must be NETLB for a forwarding rule")
        if address.get("purpose") == "SHARED_LOADBALANCER_VIP":
            raise _invalid("purpose", "for IPv4 addresses only")
    elif external and "subnetwork" in address:
        raise _invalid("subnetwork", "for internal and IPv6 addresses only")
    if wanted is None:
        address["address"] = _allocate(external, store, six)
        return
    if ipaddress.ip_address(wanted) not in _pool(external, six):
        raise _invalid("address", f"'{wanted}'. The specified address is not in a range of this project.")
    others = [a for _, a in store.of("addresses") if a.get("address") == wanted and a["name"] != address["name"]]
    if others:
        raise Failure(409, "conflict", f"IP_IN_USE_BY_ANOTHER_RESOURCE - IP '{wanted}' is already being used by another "
                                       f"resource ({others[0]['name']}).")


def _forwarding_rule(rule, store):
    scheme, protocol, ports = rule["loadBalancingScheme"], rule["IPProtocol"], rule.get("ports", [])
    external = scheme == "EXTERNAL"
    if len(ports) > 5:
        raise _invalid("ports", "at most five ports")
    if sum(bool(rule.get(field)) for field in ("ports", "portRange", "allPorts")) != 1:
        raise _invalid("ports", "exactly one of ports, portRange and allPorts")
    if protocol == "L3_DEFAULT" and not rule.get("allPorts"):
        raise _invalid("allPorts", "L3_DEFAULT requires all ports")
    service = store.get(relative(rule["backendService"], ""))
    if service["loadBalancingScheme"] != scheme:
        raise _invalid("loadBalancingScheme", "not that of the backend service")
    if service["protocol"] not in (protocol, "UNSPECIFIED"):
        raise _invalid("IPProtocol", f"the backend service's protocol is {service['protocol']}")
    if _is_six(rule, rule.get("IPAddress")):
        _dual_stack(rule, external, store)
        rule["ipVersion"] = "IPV6"
    if not external and not (rule.get("network") and rule.get("subnetwork")):
        raise _invalid("subnetwork", "an internal forwarding rule needs network and subnetwork")
    if external and rule.get("allowGlobalAccess"):
        raise _invalid("allowGlobalAccess", "for internal forwarding rules only")
    _resolve_address(rule, external, store)
    others = [other for _, other in store.of("forwardingRules")
              if other["name"] != rule["name"] and other["IPAddress"] == rule["IPAddress"]]
    shared = any(a.get("address") == rule["IPAddress"] and a.get("purpose") == "SHARED_LOADBALANCER_VIP"
                 for _, a in store.of("addresses"))
    overlapping = [other for other in others if _overlap(rule, other)]
    if overlapping and external:  # the words and codes of both: kubernetes/ingress-gce#1890, #1895, #2735
        raise _invalid("IPAddress", f"'{rule['IPAddress']}'. Specified IP address is in-use and would result in a conflict.")
    if overlapping or (others and not external and not shared):
        raise Failure(409, "conflict", f"IP_IN_USE_BY_ANOTHER_RESOURCE - IP '{rule['IPAddress']}' is already being used by "
                                       "another resource.")


def _resolve_address(rule, external, store):
    ip = rule.get("IPAddress")
    six = _is_six(rule, ip)
    if ip is None:
        rule["IPAddress"] = _allocate(external, store, six) + ("/96" if six else "")
        return
    if six and ip.endswith("/96"):
        ip = ip.removesuffix("/96")
    elif "/" in ip or not re.match(r"[\d.]+\Z", ip):
        path = relative(ip, rule["region"].split("/projects/")[1].split("/")[0])
        address = store.get(path)
        ip = address["address"]
        if six != (":" in ip):
            raise _invalid("ipVersion", f"is not that of '{ip}'")
        rule["IPAddress"] = ip + ("/96" if six else "")
    reserved = [a for _, a in store.of("addresses") if a.get("address") == ip]
    if external and not reserved:
        raise _invalid("IPAddress", f"'{ip}'. The address is not reserved in this project.")
    if reserved and reserved[0]["addressType"] != rule["loadBalancingScheme"]:
        raise _invalid("IPAddress", f"'{ip}' is of another type")
    if external and reserved[0].get("networkTier") != rule["networkTier"]:
        raise _invalid("networkTier", "not that of the address")
    if not external and ipaddress.ip_address(ip) not in _pool(False, six):
        raise _invalid("IPAddress", f"'{ip}' is not in the subnetwork")


def _overlap(one, other):
    if one["IPProtocol"] != other["IPProtocol"]:
        return False
    if one.get("allPorts") or other.get("allPorts"):
        return True
    return bool(set(one.get("ports", [])) & set(other.get("ports", [])))


def _backend_service(service, store):
    if service["loadBalancingScheme"] not in ("EXTERNAL", "INTERNAL"):
        raise _invalid("loadBalancingScheme", "this emulator knows passthrough load balancers only")
    if len(service.get("healthChecks", [])) != 1:
        raise _invalid("healthChecks", "exactly one health check is needed")
    groups = [backend["group"] for backend in service.get("backends", [])]
    if len(groups) != len(set(groups)):
        raise _invalid("backends", "duplicate group")
    if len({"/instanceGroups/" in group for group in groups}) > 1:
        raise _invalid("backends", "instance groups and network endpoint groups cannot be mixed")
    for backend in service.get("backends", []):
        if backend.get("balancingMode", "CONNECTION") != "CONNECTION":
            raise _invalid("backends[0].balancingMode", "must be CONNECTION")
        backend.setdefault("balancingMode", "CONNECTION")
    if service["loadBalancingScheme"] == "EXTERNAL" and service.get("network"):
        raise _invalid("network", "for internal backend services only")
    _tracking(service)
    _weights(service, store)
    balanced = store.balanced_groups()
    for group in groups:
        for instance in store.members.get(relative(group, ""), {}) if "/instanceGroups/" in group else ():
            one_balanced_group(instance, relative(group, ""), balanced, store)


def one_balanced_group(instance, group, balanced, store):
    """Google's words: kubernetes/ingress-gce#2215, GoogleCloudPlatform/continuous-deployment-on-kubernetes#49."""
    if any(instance in store.members.get(other, {}) for other in balanced if other != group):
        raise OperationFailure("INSTANCE_IN_MULTIPLE_LOAD_BALANCED_IGS",
                               f"Validation failed for instance '{relative(instance, '')}': instance may belong to at most one "
                               "load-balanced instance group.")


def _tracking(service):
    policy, external = service.get("connectionTrackingPolicy", {}), service["loadBalancingScheme"] == "EXTERNAL"
    if policy.get("trackingMode") == "PER_SESSION" and service["sessionAffinity"] == "NONE":
        raise _invalid("connectionTrackingPolicy", "PER_SESSION needs a session affinity")
    if policy.get("enableStrongAffinity") and not external:
        raise _invalid("connectionTrackingPolicy.enableStrongAffinity", "for external backend services only")
    idle = policy.get("idleTimeoutSec")
    if idle is not None and not (60 if external else 600) <= idle <= 57600:
        raise _invalid("connectionTrackingPolicy.idleTimeoutSec", f"'{idle}' is out of range")
    if idle is not None and policy.get("trackingMode") != "PER_SESSION":
        raise _invalid("connectionTrackingPolicy.idleTimeoutSec", "needs PER_SESSION")


def _weights(service, store):
    policy = service.get("localityLbPolicy")
    fits = {"WEIGHTED_MAGLEV": "EXTERNAL", "MAGLEV": "EXTERNAL", "WEIGHTED_GCP_RENDEZVOUS": "INTERNAL"}
    if policy and fits.get(policy) != service["loadBalancingScheme"]:
        raise _invalid("localityLbPolicy", f"'{policy}' is not for this scheme")
    check_ = store.get(relative(service["healthChecks"][0], ""))
    if policy and policy.startswith("WEIGHTED") and check_["type"] not in ("HTTP", "HTTPS", "HTTP2"):
        raise _invalid("localityLbPolicy", f"'{policy}' needs an HTTP health check")


def _times(check_, _store):
    """Ranges of https://cloud.google.com/compute/docs/reference/rest/v1/healthChecks: what is out of them is refused."""
    if check_["timeoutSec"] > check_["checkIntervalSec"]:
        raise _invalid("timeoutSec", "must not be larger than checkIntervalSec")
    for field, most in (("checkIntervalSec", 300), ("timeoutSec", 300), ("healthyThreshold", 10), ("unhealthyThreshold", 10)):
        if not 1 <= check_[field] <= most:
            raise _invalid(field, f"'{check_[field]}'. Must be between 1 and {most}.")


def _health_check(check_, store):
    _times(check_, store)
    kinds = {"TCP": "tcpHealthCheck", "HTTP": "httpHealthCheck", "HTTPS": "httpsHealthCheck"}
    if kinds.get(check_.get("type")) not in check_:
        raise _invalid("type", "does not fit the check")


def _firewall(firewall, store):
    own = relative(firewall["selfLink"], "").split("/")[1]
    if relative(firewall["network"], own).split("/")[1] != own:
        raise _invalid("network", f"'{firewall['network']}'. Cross project references are not allowed for firewalls.")
    store.get(relative(firewall["network"], own))
    if bool(firewall.get("allowed")) == bool(firewall.get("denied")):
        raise _invalid("allowed", "exactly one of allowed and denied")
    if not firewall.get("sourceRanges") and not firewall.get("sourceTags"):
        firewall["sourceRanges"] = ["0.0.0.0/0"]
    ranges = firewall.get("sourceRanges", []) + firewall.get("destinationRanges", [])
    if len({":" in range_ for range_ in ranges}) > 1:
        raise _invalid("sourceRanges", "IPv4 and IPv6 ranges cannot be mixed in one firewall")


def _neg(group, _store):
    if group.get("networkEndpointType") != "GCE_VM_IP":
        raise _invalid("networkEndpointType", "this emulator knows GCE_VM_IP only")
    if not group.get("network") or not group.get("subnetwork"):
        raise _invalid("subnetwork", "GCE_VM_IP needs network and subnetwork")
