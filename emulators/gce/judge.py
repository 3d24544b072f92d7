"""Drives the emulator with Google's own Python clients: `judge.py http://127.0.0.1:PORT`. Nothing leaves loopback.

Owns: the life of one passthrough load balancer through google-cloud-compute and google-api-python-client.
Invariant: ends with an exception, or prints one line and found no violation of the discovery document.
"""

import json
import socket
import sys
import urllib.request

# Before any client exists: whatever they try, only loopback is reached (GAPIC's sub-clients have default hosts).
_connect = socket.socket.connect


def _loopback_only(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith("127."):
        raise OSError(f"guard: {address} is not loopback")
    return _connect(self, address)


socket.socket.connect = _loopback_only

import googleapiclient.discovery  # noqa: E402
import httplib2  # noqa: E402
from google.api_core import exceptions  # noqa: E402
from google.api_core.client_options import ClientOptions  # noqa: E402
from google.auth.credentials import AnonymousCredentials  # noqa: E402
from google.cloud import compute_v1 as gce  # noqa: E402

ENDPOINT = sys.argv[1]
PROJECT, REGION = "project", "europe-west1"
ZONE = f"{REGION}-b"
NETWORK, SUBNETWORK = "global/networks/default", f"regions/{REGION}/subnetworks/default"


def plain(client):
    host = ENDPOINT.removeprefix("http://")
    return client(transport=client.get_transport_class("rest")(
        host=host, credentials=AnonymousCredentials(), url_scheme="http"))


def client(of):
    """With sub-clients for operations on the same host: GAPIC would build them with the default one."""
    made = plain(of)
    made._transport._extended_operations_services = {
        "region_operations": plain(gce.RegionOperationsClient),
        "global_operations": plain(gce.GlobalOperationsClient),
        "zone_operations": plain(gce.ZoneOperationsClient),
    }
    return made


def done(operation):
    operation.result(timeout=30)


def fails(expected, call):
    try:
        call()
    except expected:
        return
    raise AssertionError(f"{expected.__name__} expected")


def hook(name, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{ENDPOINT}/_emulator/{name}", data=data)) as answer:
        return json.load(answer)


def gapic():
    checks, services = client(gce.RegionHealthChecksClient), client(gce.RegionBackendServicesClient)
    rules, addresses = client(gce.ForwardingRulesClient), client(gce.AddressesClient)
    groups, instances, firewalls = (client(gce.NetworkEndpointGroupsClient), client(gce.InstancesClient),
                                    client(gce.FirewallsClient))
    at = {"project": PROJECT, "region": REGION}
    zonal = {"project": PROJECT, "zone": ZONE}
    nic = gce.NetworkInterface(network=NETWORK, subnetwork=SUBNETWORK, network_i_p="10.128.0.9")
    done(instances.insert(**zonal, instance_resource=gce.Instance(
        name="judge-node", machine_type=f"zones/{ZONE}/machineTypes/e2-small", network_interfaces=[nic])))
    done(checks.insert(**at, health_check_resource=gce.HealthCheck(
        name="judge-hc", type_="TCP", tcp_health_check=gce.TCPHealthCheck(port=80))))
    check = checks.get(**at, health_check="judge-hc")
    done(groups.insert(**zonal, network_endpoint_group_resource=gce.NetworkEndpointGroup(
        name="judge-neg", network_endpoint_type="GCE_VM_IP", network=NETWORK, subnetwork=SUBNETWORK)))
    group = groups.get(**zonal, network_endpoint_group="judge-neg")
    endpoint = gce.NetworkEndpoint(instance="judge-node", ip_address="10.128.0.9")
    done(groups.attach_network_endpoints(
        **zonal, network_endpoint_group="judge-neg",
        network_endpoint_groups_attach_endpoints_request_resource=gce.NetworkEndpointGroupsAttachEndpointsRequest(
            network_endpoints=[endpoint])))
    done(services.insert(**at, backend_service_resource=gce.BackendService(
        name="judge-bs", protocol="UNSPECIFIED", load_balancing_scheme="EXTERNAL", health_checks=[check.self_link],
        backends=[gce.Backend(group=group.self_link, balancing_mode="CONNECTION")])))
    service = services.get(**at, backend_service="judge-bs")
    done(addresses.insert(**at, address_resource=gce.Address(name="judge-ip")))
    address = addresses.get(**at, address="judge-ip").address

    def rule(name, protocol, ports):
        return rules.insert(**at, forwarding_rule_resource=gce.ForwardingRule(
            name=name, I_p_protocol=protocol, ports=ports, I_p_address=address, backend_service=service.self_link,
            load_balancing_scheme="EXTERNAL"))

    done(rule("judge-tcp", "TCP", ["80", "443"]))
    done(rule("judge-udp", "UDP", ["80"]))
    fails(exceptions.GoogleAPICallError, lambda: done(rule("judge-clash", "TCP", ["443"])))
    fails(exceptions.Conflict, lambda: rule("judge-tcp", "TCP", ["81"]))
    fails(exceptions.NotFound, lambda: rules.get(**at, forwarding_rule="judge-absent"))
    stale = gce.BackendService(fingerprint="AAAAAAAAAAA=", timeout_sec=9)
    fails(exceptions.PreconditionFailed, lambda: services.patch(
        **at, backend_service="judge-bs", backend_service_resource=stale))
    health = services.get_health(**at, backend_service="judge-bs", resource_group_reference_resource=gce.ResourceGroupReference(
        group=group.self_link))
    assert [state.health_state for state in health.health_status] == ["HEALTHY", "HEALTHY"], health
    fails(exceptions.GoogleAPICallError, lambda: done(services.delete(**at, backend_service="judge-bs")))
    names = [found.name for found in rules.list(request=gce.ListForwardingRulesRequest(
        **at, filter='name eq "judge-.*"', max_results=1))]
    assert names == ["judge-tcp", "judge-udp"], names
    done(firewalls.insert(project=PROJECT, firewall_resource=gce.Firewall(
        name="judge-fw", source_ranges=["192.0.2.0/24"], allowed=[gce.Allowed(I_p_protocol="tcp", ports=["80"])])))
    assert firewalls.get(project=PROJECT, firewall="judge-fw").direction == "INGRESS"
    hook("quota", {"addresses": 1})
    fails(exceptions.Forbidden, lambda: addresses.insert(**at, address_resource=gce.Address(name="judge-more")))
    hook("quota", {"addresses": 1000})
    for made in ("judge-tcp", "judge-udp"):
        done(rules.delete(**at, forwarding_rule=made))
    done(services.delete(**at, backend_service="judge-bs"))
    done(groups.delete(**zonal, network_endpoint_group="judge-neg"))
    done(checks.delete(**at, health_check="judge-hc"))
    done(addresses.delete(**at, address="judge-ip"))
    done(firewalls.delete(project=PROJECT, firewall="judge-fw"))


def discovery_client():
    service = googleapiclient.discovery.build(
        "compute", "v1", static_discovery=True, http=httplib2.Http(),
        client_options=ClientOptions(api_endpoint=f"{ENDPOINT}/compute/v1/"))
    zonal = {"project": PROJECT, "zone": ZONE}
    operation = service.instanceGroups().insert(**zonal, body={"name": "judge-ig"}).execute()
    waited = service.zoneOperations().wait(**zonal, operation=operation["name"]).execute()
    assert (operation["status"], waited["status"]) == ("RUNNING", "DONE"), (operation, waited)
    body = {"instances": [{"instance": f"zones/{ZONE}/instances/judge-node"}]}
    operation = service.instanceGroups().addInstances(**zonal, instanceGroup="judge-ig", body=body).execute()
    service.zoneOperations().wait(**zonal, operation=operation["name"]).execute()
    listed = service.instanceGroups().listInstances(**zonal, instanceGroup="judge-ig", body={}).execute()
    assert len(listed["items"]) == 1, listed
    # The legacy checks of target pools, which Kubernetes' own provider makes.
    checks = service.httpHealthChecks()
    body = {"name": "judge-legacy", "port": 10256, "requestPath": "/healthz"}
    operation = checks.insert(project=PROJECT, body=body).execute()
    service.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
    made = checks.get(project=PROJECT, httpHealthCheck="judge-legacy").execute()
    assert (made["port"], made["checkIntervalSec"], made["selfLink"].split("/")[-2]) == (10256, 5, "httpHealthChecks"), made
    operation = checks.update(project=PROJECT, httpHealthCheck="judge-legacy", body=dict(body, port=10257)).execute()
    service.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
    pool = {"name": "judge-pool", "healthChecks": [made["selfLink"]]}
    operation = service.targetPools().insert(project=PROJECT, region=REGION, body=pool).execute()
    service.regionOperations().wait(project=PROJECT, region=REGION, operation=operation["name"]).execute()
    operation = checks.delete(project=PROJECT, httpHealthCheck="judge-legacy").execute()
    refused = service.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
    assert refused["error"]["errors"][0]["code"] == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", refused
    operation = service.targetPools().delete(project=PROJECT, region=REGION, targetPool="judge-pool").execute()
    service.regionOperations().wait(project=PROJECT, region=REGION, operation=operation["name"]).execute()
    operation = checks.delete(project=PROJECT, httpHealthCheck="judge-legacy").execute()
    service.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
    for deletion in (service.instanceGroups().delete(**zonal, instanceGroup="judge-ig"),
                     service.instances().delete(**zonal, instance="judge-node")):
        service.zoneOperations().wait(**zonal, operation=deletion.execute()["name"]).execute()


def main():
    gapic()
    discovery_client()
    violations = hook("violations")
    assert not violations, violations
    print("judged: google-cloud-compute and google-api-python-client found nothing wrong")


main()
