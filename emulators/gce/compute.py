"""A small Compute Engine: resources, operations that take their time, faults on demand.

Owns: storage, names, life of operations, lists with filters and pages, members of groups.
Leaves to others: HTTP and the check of every message (server.py), what a resource may say (rules.py).
Invariant: a call that changes something answers with a running operation; its effect is there when it is DONE,
except that an inserted resource shows at once. A resource with a running operation takes no other.
"""

import copy
import hashlib
import itertools
import json
import re
import time

from rules import (EXTERNAL_POOL6, INTERNAL_POOL6, KINDS, ROOT, Failure, OperationFailure, check, fill, fingerprint, normalize,
                   one_balanced_group, references, relative, users_of)

REASONS = {400: "BAD REQUEST", 403: "FORBIDDEN", 404: "NOT FOUND", 409: "CONFLICT", 412: "PRECONDITION FAILED",
           503: "SERVICE UNAVAILABLE"}
QUOTAS = {"forwardingRules": "FORWARDING_RULES", "addresses": "STATIC_ADDRESSES", "firewalls": "FIREWALLS",
          "backendServices": "BACKEND_SERVICES", "healthChecks": "HEALTH_CHECKS",
          "networkEndpointGroups": "NETWORK_ENDPOINT_GROUPS"}


class Compute:
    def __init__(self, project="project", region="europe-west1", zones="bcd"):
        self.project, self.region, self.zones = project, region, [f"{region}-{letter}" for letter in zones]
        self.reset()

    def reset(self):
        self.resources, self.members, self.health = {}, {}, {}
        self.operations, self.busy = {}, {}
        self.polls, self.quotas, self.faults, self.largest_page = 1, {}, [], 500
        self.saved = {}
        self.numbers = itertools.count(1)
        self._seed()

    def _seed(self):
        base = f"projects/{self.project}"
        places = {f"{base}/regions/{self.region}": {"status": "UP"}, f"{base}/global/networks/default": {}}
        places |= {f"{base}/zones/{zone}": {"status": "UP", "region": f"{ROOT}{base}/regions/{self.region}"}
                   for zone in self.zones}
        subnet = f"{base}/regions/{self.region}/subnetworks/default"
        # The host of a Shared VPC, whose service project this one is.
        places |= {"projects/host/global/networks/shared": {},
                   f"projects/host/regions/{self.region}/subnetworks/shared":
                       {"ipCidrRange": "10.130.0.0/20", "network": f"{ROOT}projects/host/global/networks/shared"}}
        dual = {"ipCidrRange": "10.128.0.0/20", "network": f"{ROOT}{base}/global/networks/default",
                "stackType": "IPV4_IPV6"}
        places[subnet] = dict(dual, ipv6AccessType="EXTERNAL", externalIpv6Prefix=str(EXTERNAL_POOL6))
        places[subnet.replace("/default", "/inside")] = dict(
            dual, ipCidrRange="10.129.0.0/20", ipv6AccessType="INTERNAL", internalIpv6Prefix=str(INTERNAL_POOL6))
        for path, fields in places.items():
            self._store(path, dict(fields, name=path.rsplit("/", 1)[1]))

    # --- states to come back to

    def save(self):
        """Keeps all that there is, and answers with a digest: the same for the same state."""
        state = (self.resources, self.members, self.health, self.operations, self.busy)
        under_way = {path: [operation["name"], polls] for path, (operation, polls, *_) in self.busy.items()}
        text = json.dumps([self.resources, self.members, self.health, self.operations, under_way], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest not in self.saved:
            self.saved[digest] = copy.deepcopy(state)  # in one piece: `busy` and `operations` share their items
        return digest

    def restore(self, digest):
        self.resources, self.members, self.health, self.operations, self.busy = copy.deepcopy(self.saved[digest])

    def forget(self, kept):
        """All that is Portico's is gone, without a call, but for paths with this in them."""
        for path, item in list(self.resources.items()):
            if "portico.dev/service-uid" in item.get("description", "") and kept not in path:
                del self.resources[path]
                self.members.pop(path, None)

    def describe(self, words):
        """Others' words on what stands at a path, without a call: as if they had made it; no words: no description."""
        item = self.resources[words["path"]]
        item.pop("description", None)
        item.update({"description": words["description"]} if words["description"] else {})

    # --- storage, as rules.py sees it

    def get(self, path):
        if path not in self.resources:
            raise Failure(404, "notFound", f"The resource '{path}' was not found")
        return self.resources[path]

    def _shown(self, path):
        """With what is only told: who uses a backend service."""
        item = self.resources[path]
        used = [{"reference": rule["selfLink"]} for _, rule in self.of("forwardingRules")
                if rule.get("backendService") == item["selfLink"]]
        return dict(item, usedBy=used) if used else item

    def of(self, collection):
        return [(path, item) for path, item in self.resources.items() if path.split("/")[-2] == collection]

    def _store(self, path, resource):
        collection = path.split("/")[-2]
        resource.update(kind=KINDS[collection], id=str(10**18 + next(self.numbers)), creationTimestamp=_now(),
                        selfLink=ROOT + path)
        for scope in ("region", "zone"):
            if f"/{scope}s/" in path and not re.fullmatch(f"projects/[^/]+/{scope}s/{resource['name']}", path):
                resource[scope] = ROOT + path.split(f"/{scope}s/")[0] + f"/{scope}s/" + path.split(f"/{scope}s/")[1].split("/")[0]
        fill(collection, resource, self.project)
        self.resources[path] = resource

    # --- one call

    def call(self, method, parameters, query, body):
        fault = self._fault(method["id"], body)
        verb, path = method["id"].rsplit(".", 1)[1], method["flatPath"].format(**parameters)
        query = dict(query)
        if "/operations" in method["flatPath"]:
            return self._operation_call(verb, path, query)
        if verb == "aggregatedList":
            return self._aggregated(path, query)
        if verb == "list":
            return self._page(path, query, [self._shown(key) for key in sorted(self.resources)
                                            if key.rsplit("/", 1)[0] == path])
        if verb == "insert":
            return self._insert(path, body, fault)
        # instances/{instance}/… and projects/{project}/…: the resource is what the last variable names.
        target = re.match(r"(.*\{[^}]+\})", method["flatPath"])[1].format(**parameters)
        return self._on_resource(verb, target, query, body, fault)

    def _on_resource(self, verb, path, query, body, fault):
        resource, collection = self.get(path), path.split("/")[-2]
        if verb == "get":
            return self._shown(path)
        if verb == "listNetworkEndpoints":
            return self._list_endpoints(path, query, body)
        if verb == "listInstances":
            items = [{"instance": url, "status": "RUNNING"} for url in sorted(self.members.get(path, {}))]
            return self._page(path, query, items, "compute#instanceGroupsListInstances")
        if verb == "getHealth":
            return self._get_health(collection, resource, body)
        changes = {
            "delete": lambda: self._delete(path),
            "patch": lambda: self._change(path, body, keep=True),
            "update": lambda: self._change(path, body, keep=False),
            "attachNetworkEndpoints": lambda: self._attach(path, body),
            "detachNetworkEndpoints": lambda: self._detach(path, body),
            "addInstances": lambda: self._add_instances(path, body),
            "removeInstances": lambda: self._remove_instances(path, body),
        }
        if verb not in changes:
            raise Failure(501, "notImplemented", f"the emulator does not have {collection}.{verb}")
        self._ready(path)
        if verb in ("patch", "update"):
            self._same_fingerprint(resource, body, verb, collection)
        if verb == "attachNetworkEndpoints":
            self._fit(path, resource, body)
        if verb == "addInstances":
            for item in body.get("instances", []):
                self.get(relative(item["instance"], self.project))
        return self._operation(verb, path, changes[verb], fault)

    def _fault(self, method, body):
        for fault in self.faults:
            meant = re.search(fault["match"], method) and re.search(fault.get("body", ""), json.dumps(body))
            if fault.get("times", 1) > 0 and meant:
                fault["times"] = fault.get("times", 1) - 1
                if "status" in fault:
                    raise Failure(fault["status"], fault.get("reason", "backendError"), fault.get("message", "injected"))
                return OperationFailure(fault["code"], fault.get("message", "injected"), fault.get("http", 400))
        return None

    # --- operations

    def _operation(self, verb, path, effect, fault=None):
        scope = path.rsplit("/", 2)[0]
        name = f"operation-{int(time.time() * 1000)}-{next(self.numbers):013x}"
        operation = {
            "kind": "compute#operation", "id": str(10**18 + next(self.numbers)), "name": name, "operationType": verb,
            "targetLink": ROOT + path, "targetId": self.resources.get(path, {}).get("id", "0"), "status": "RUNNING",
            "user": "emulator@example.com", "progress": 0, "insertTime": _now(), "startTime": _now(),
            "selfLink": f"{ROOT}{scope}/operations/{name}",
        }
        for place in ("region", "zone"):
            if f"/{place}s/" in scope:
                operation[place] = ROOT + scope
        self.operations[f"{scope}/operations/{name}"] = operation
        self._forget_operations()
        self.busy[path] = [operation, self.polls, effect, fault]
        answer = dict(operation)
        if self.polls <= 0:
            self._finish(path)
        return answer

    def _forget_operations(self):
        """Google keeps them for days; so many are more than any look needs, and each look goes through all."""
        ended = (key for key, operation in self.operations.items() if operation["status"] == "DONE")
        for key in list(itertools.islice(ended, max(0, len(self.operations) - 200))):
            del self.operations[key]

    def _advance(self, hurry=False):
        for path in list(self.busy):
            self.busy[path][1] = 0 if hurry else self.busy[path][1] - 1
            if self.busy[path][1] <= 0:
                self._finish(path)

    def _finish(self, path):
        operation, _, effect, fault = self.busy.pop(path)
        try:
            if fault:
                raise fault
            effect()
        except (OperationFailure, Failure) as failure:
            code, http = failure.code, getattr(failure, "http", 400)
            if isinstance(failure, Failure):
                code, http = {404: "RESOURCE_NOT_FOUND"}.get(failure.code, "INVALID_USAGE"), failure.code
            operation.update(error={"errors": [{"code": code, "message": failure.message}]},
                             httpErrorStatusCode=http, httpErrorMessage=REASONS.get(http, "ERROR"))
            if operation["operationType"] == "insert":
                self.resources.pop(path, None)
        operation.update(status="DONE", progress=100, endTime=_now())

    def _operation_call(self, verb, path, query):
        self._advance(hurry=verb == "wait")
        if verb == "aggregatedList":
            project = path.removesuffix("/aggregated/operations") + "/"
            found = [item for key, item in sorted(self.operations.items()) if key.startswith(project)]
            return self._scoped(path, query, found, "operations", "compute#operationAggregatedList")
        if verb == "list":
            return self._page(path, query, [item for key, item in sorted(self.operations.items())
                                            if key.rsplit("/", 1)[0] == path], "compute#operationList")
        key = path.removesuffix("/wait")
        if key not in self.operations:
            raise Failure(404, "notFound", f"The resource '{key}' was not found")
        return self.operations[key]

    def _ready(self, path):
        if path in self.busy:
            raise Failure(400, "resourceNotReady", f"The resource '{path}' is not ready")

    # --- lists

    def _page(self, path, query, items, kind=None):
        collection = path.split("/")[-1]
        items = _filtered(items, query.get("filter"))
        size, start = min(int(query.get("maxResults", 500)), self.largest_page), int(query.get("pageToken") or 0)
        page = {"kind": kind or KINDS[collection] + "List", "id": path, "selfLink": ROOT + path}
        if items[start:start + size]:
            page["items"] = items[start:start + size]
        if len(items) > start + size:
            page["nextPageToken"] = str(start + size)
        return page

    def _aggregated(self, path, query):
        collection = path.split("/")[-1]
        project = path.split("/aggregated/")[0] + "/"
        items = [item for key, item in sorted(self.of(collection)) if key.startswith(project)]
        return self._scoped(path, query, items, collection, KINDS[collection] + "AggregatedList")

    def _scoped(self, path, query, items, collection, kind):
        page = self._page(path, query, items, kind)
        scopes = {}
        for item in page.pop("items", []):
            place = item["selfLink"].removeprefix(f"{ROOT}projects/").split("/", 1)[1].rsplit("/", 2)[0]
            scopes.setdefault(place, {}).setdefault(collection, []).append(item)
        return dict(page, items=scopes)

    # --- changes

    def _insert(self, path, body, fault):
        collection, key = path.split("/")[-1], f"{path}/{body['name']}"
        if collection not in KINDS:
            raise Failure(501, "notImplemented", f"the emulator does not have {collection}")
        if key in self.resources:
            raise Failure(409, "alreadyExists", f"The resource '{key}' already exists")
        limit = self.quotas.get(collection)
        if limit is not None and len(self.of(collection)) >= limit:
            raise Failure(403, "quotaExceeded", f"Quota '{QUOTAS[collection]}' exceeded. Limit: {limit}.0 in region "
                                                f"{self.region}.")
        resource = copy.deepcopy(body)
        normalize(collection, resource, self.project)
        for reference in references(collection, resource):
            self.get(reference)
            self._ready(reference)
        for field in ("network", "subnetwork"):
            if resource.get(field) and collection != "subnetworks":
                self.get(relative(resource[field], self.project))
        self._store(key, resource)
        try:
            check(collection, resource, self)
        except Failure:
            del self.resources[key]
            raise
        except OperationFailure as failure:
            fault = failure
        fill(collection, resource, self.project)
        return self._operation("insert", key, lambda: None, fault)

    def _delete(self, path):
        users = [key for key, item in self.resources.items() if path in references(key.split("/")[-2], item)]
        resource, collection = self.get(path), path.split("/")[-2]
        if collection == "addresses":
            users += users_of(resource["address"], self)
        if users:
            raise OperationFailure("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
                                   f"The {collection} resource '{path}' is already being used by '{users[0]}'")
        del self.resources[path]
        self.members.pop(path, None)
        if collection == "instances":
            self._leave_groups(path)

    @staticmethod
    def _same_fingerprint(resource, body, verb, collection):
        if "fingerprint" in resource and body.get("fingerprint", resource["fingerprint"]) != resource["fingerprint"]:
            raise Failure(412, "conditionNotMet", "Invalid fingerprint.")
        if verb == "update" and collection == "backendServices" and "fingerprint" not in body:
            raise Failure(400, "required", "Required field 'resource.fingerprint' not specified")

    def _change(self, path, body, keep):
        old, collection = self.get(path), path.split("/")[-2]
        fixed = ("kind", "id", "creationTimestamp", "selfLink", "region", "zone", "name")
        new = copy.deepcopy(old) if keep else {}
        for key, value in copy.deepcopy(body).items():
            if value is None:
                new.pop(key, None)
            else:
                new[key] = value
        new.update({key: old[key] for key in fixed if key in old})
        new.pop("usedBy", None)
        normalize(collection, new, self.project)
        for reference in references(collection, new):
            self.get(reference)
        self._immutable(collection, old, new)
        fill(collection, new, self.project)
        check(collection, new, self)
        self.resources[path] = new

    @staticmethod
    def _immutable(collection, old, new):
        fields = {"forwardingRules": ("IPAddress", "IPProtocol", "ports", "allPorts", "loadBalancingScheme", "subnetwork",
                                      "networkTier", "backendService"),
                  "backendServices": ("loadBalancingScheme", "network"), "firewalls": ("network", "direction")}
        for field in fields.get(collection, ()):
            if old.get(field) != new.get(field):
                raise Failure(400, "invalid", f"Invalid value for field 'resource.{field}': it cannot be changed")

    # --- members of groups

    def _fit(self, path, group, body):
        """All of a call, or none: the text for an address is one that Google wrote (kubernetes/ingress-gce#1463)."""
        zone, endpoints = path.split("/zones/")[1].split("/")[0], body.get("networkEndpoints", [])
        if len(endpoints) > 500:
            raise Failure(400, "invalid", "Invalid value for field 'networkEndpoints': at most 500 endpoints")
        for endpoint in endpoints:
            name, network = endpoint["instance"].rsplit("/", 1)[-1], relative(group["network"], self.project)
            instance = self.get(f"projects/{self.project}/zones/{zone}/instances/{name}")
            own = [nic.get("networkIP") for nic in instance.get("networkInterfaces", [])
                   if relative(nic.get("network", "global/networks/default"), self.project) == network]
            ip = endpoint.get("ipAddress", own[0] if own else "")
            if ip not in own:
                raise Failure(400, "invalid", f"Invalid value for field 'resource.ipAddress': '{ip}'. Specified IP address {ip} "
                                              f"doesn't belong to the (sub)network {group['subnetwork'].rsplit('/', 1)[1]} or to "
                                              f"the instance {name}.")

    def _attach(self, path, body):
        zone, group = path.split("/zones/")[1].split("/")[0], self.members.setdefault(path, {})
        for endpoint in body.get("networkEndpoints", []):
            name = endpoint["instance"].rsplit("/", 1)[-1]
            instance = self.get(f"projects/{self.project}/zones/{zone}/instances/{name}")
            ip = endpoint.get("ipAddress", instance["networkInterfaces"][0].get("networkIP"))
            if name in group:
                raise OperationFailure("INVALID_USAGE", f"Endpoint '{name}' is already in the group.")
            group[name] = ip
        self.resources[path]["size"] = len(group)

    def _leave_groups(self, path):
        zone, name = path.split("/instances/")
        for key, group in self.members.items():
            if key.startswith(zone + "/"):
                group.pop(name, None)
                group.pop(ROOT + path, None)
                self.resources[key]["size"] = len(group)

    def _detach(self, path, body):
        group = self.members.setdefault(path, {})
        for endpoint in body.get("networkEndpoints", []):
            if group.pop(endpoint["instance"].rsplit("/", 1)[-1], None) is None:
                raise OperationFailure("INVALID_USAGE", f"Endpoint '{endpoint['instance']}' is not in the group.")
        self.resources[path]["size"] = len(group)

    def _list_endpoints(self, path, query, body):
        zone = path.split("/zones/")[1].split("/")[0]
        show = (body or {}).get("healthStatus") == "SHOW"
        services = [item for _, item in self.of("backendServices")
                    if ROOT + path in [backend["group"] for backend in item.get("backends", [])]]
        items = []
        for name, ip in sorted(self.members.get(path, {}).items()):
            link = f"{ROOT}projects/{self.project}/zones/{zone}/instances/{name}"
            item = {"networkEndpoint": {"instance": link, "ipAddress": ip}}
            if show and services and not self.health.get("unlisted"):
                item["healths"] = [dict(self._state(name, self._is_six(services[0])),
                                        backendService={"backendService": services[0]["selfLink"]})]
            items.append(item)
        page = self._page(path, query, items, "compute#networkEndpointGroupsListNetworkEndpoints")
        del page["selfLink"]
        return page

    def _is_six(self, service):
        return any(rule["backendService"] == service["selfLink"] and rule.get("ipVersion") == "IPV6"
                   for _, rule in self.of("forwardingRules"))

    def _state(self, name, six):
        """Of a test's making: `NAME`, and over IPv6 `NAME/6`."""
        state = self.health.get(name, "HEALTHY")
        return {"healthState": state} | ({"ipv6HealthState": self.health.get(f"{name}/6", state)} if six else {})

    def _weight(self, name):
        """Of a test's making: `NAME/weight`, a number or why there is none."""
        weight = self.health.get(f"{name}/weight", "1")
        return {"weight": weight} if weight.isdigit() else {"weightError": weight}

    def _addresses(self, group):
        for member, ip in sorted(self.members.get(group, {}).items()):
            instance = self.resources.get(relative(member, self.project), {})  # of an instance group the URL, else a name
            yield member.rsplit("/", 1)[-1], ip or instance["networkInterfaces"][0]["networkIP"]

    def _get_health(self, collection, resource, body):
        if collection != "backendServices":
            raise Failure(501, "notImplemented", f"the emulator does not have {collection}.getHealth")
        group = relative(body["group"], self.project)
        if ROOT + group not in [backend["group"] for backend in resource.get("backends", [])]:
            raise Failure(400, "invalid", f"Invalid value for field 'resource.group': '{body['group']}' is no backend")
        rules = [rule for _, rule in self.of("forwardingRules") if rule["backendService"] == resource["selfLink"]]
        zone = group.split("/zones/")[1].split("/")[0]
        weighted = resource.get("localityLbPolicy", "").startswith("WEIGHTED")
        states = [{"instance": f"{ROOT}projects/{self.project}/zones/{zone}/instances/{name}", "ipAddress": ip,
                   "forwardingRule": rule["selfLink"], "forwardingRuleIp": rule["IPAddress"], "port": 0,
                   **self._state(name, rule.get("ipVersion") == "IPV6"), **(self._weight(name) if weighted else {})}
                  for rule in rules for name, ip in self._addresses(group)]
        return {"kind": "compute#backendServiceGroupHealth", **({"healthStatus": states} if states else {})}

    def balanced_groups(self):
        """Instance groups that a backend service refers to."""
        return {relative(backend["group"], self.project) for _, service in self.of("backendServices")
                for backend in service.get("backends", []) if "/instanceGroups/" in backend["group"]}

    def _add_instances(self, path, body):
        group, balanced = self.members.setdefault(path, {}), self.balanced_groups()
        for item in body.get("instances", []):
            instance = relative(item["instance"], self.project)
            self.get(instance)
            if ROOT + instance in group:
                raise OperationFailure("MEMBER_ALREADY_EXISTS", f"Resource '{instance}' is already a member of '{path}'.")
            if path in balanced:
                one_balanced_group(ROOT + instance, path, balanced, self)
            group[ROOT + instance] = ""
        if len(group) > 1000:
            raise OperationFailure("LIMIT_EXCEEDED", f"'{path}' has more than 1000 instances.")
        self.resources[path]["size"] = len(group)

    def _remove_instances(self, path, body):
        group = self.members.setdefault(path, {})
        for item in body.get("instances", []):
            group.pop(ROOT + relative(item["instance"], self.project), None)
        self.resources[path]["size"] = len(group)


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%S") + f".{int(time.time() * 1000) % 1000:03d}-08:00"


def _filtered(items, text):
    """`a eq "regex"`, `a ne "regex"`, `a = "text"`, `a != "text"`; several in parentheses mean all of them."""
    if not text:
        return items
    clause = r'\s*([\w.]+)\s*(=|!=|eq|ne)\s*"?([^"()]*?)"?\s*'
    if len(re.findall(r"\b(?:eq|ne)\b", text)) and text.count("(") > 1:
        raise Failure(400, "invalid", "Invalid value for field 'filter': regular expressions cannot combine fields")
    clauses = [re.fullmatch(clause, text)] if "(" not in text or re.fullmatch(clause, text) else [
        re.fullmatch(clause, part) for part in re.findall(r"\(([^()]*)\)", text)]
    if not clauses or None in clauses:
        raise Failure(400, "invalid", f"Invalid value for field 'filter': '{text}'")

    def holds(item):
        for match in clauses:
            value, wanted = str(item.get(match[1], "")), match[3]
            equal = re.fullmatch(wanted, value) is not None if match[2] in ("eq", "ne") else value == wanted
            if equal != (match[2] in ("=", "eq")):
                return False
        return True

    return [item for item in items if holds(item)]
