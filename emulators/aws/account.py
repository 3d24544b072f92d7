#!/usr/bin/env python3
"""An account to test in, made and read by boto3: a second client, that knows nothing of Portico.

usage: account.py ENDPOINT make               a VPC, tagged subnets, instances, prefix lists and somebody else's similar names; their IDs as JSON
       account.py ENDPOINT controllers        what the AWS Load Balancer Controller would have made for two Services
       account.py ENDPOINT list               every load balancer, target group, listener and security group, with tags, as JSON
       account.py ENDPOINT nodes VPC N        N more instances, in the zones of the tagged subnets in turn: id, zone, private address and name
       account.py ENDPOINT stop|start|terminate ID
                                          does that to an instance
       account.py ENDPOINT strangers VPC NAMESPACE N
                                          N load balancers of another cluster, named and tagged like ours
       account.py ENDPOINT calls              how often each API was called since the last time this was asked, as JSON
       account.py ENDPOINT quota N            that many Network Load Balancers are all that the account may have
       account.py ENDPOINT address            allocates an elastic address; its allocation
       account.py ENDPOINT subnet ID FREE     so many addresses of a subnet are free
       account.py ENDPOINT pace SECONDS       so long a new target is `initial`
       account.py ENDPOINT fault ACTION CODE N
                                          the next N calls of an action are refused with that code
       account.py ENDPOINT clear              no more faults
       account.py ENDPOINT group VPC NAME     a security group with that tag Name; its ID
       account.py ENDPOINT split NAME         the first listener of a load balancer sends a tenth of its traffic to another target group
       account.py ENDPOINT share|unshare ARN  an endpoint service (PrivateLink) on a load balancer
       account.py ENDPOINT refer|unrefer ID   a rule of another security group that refers to this one
       account.py ENDPOINT untag ID,ID KEY,KEY
                                          takes the tags off whose keys begin like that, as a tag policy does
       account.py ENDPOINT health TARGET STATE
                                          how a target is, by id:port, or * for all; "": as it is by itself
       account.py ENDPOINT tagged-only        things for the tagging API alone, read from standard input
"""
import ipaddress
import itertools
import json
import sys
import urllib.request

import boto3

TAGS = [
    {"Key": "portico.dev/cluster-uid", "Value": "contract-a-other"},
    {"Key": "portico.dev/service-uid", "Value": "uid-created"},
    {"Key": "portico.dev/service", "Value": "contract/created"},
]


def clients(endpoint):
    session = boto3.Session("test", "test", region_name="us-east-1")
    return (session.client(name, endpoint_url=endpoint) for name in ("ec2", "elbv2"))


def make(endpoint):
    ec2, elb = clients(endpoint)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    whole = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
    ranges = [str(net) for net in itertools.islice(ipaddress.ip_network(whole).subnets(new_prefix=64), 3)]
    # Where the pods of clusters in tests are.
    ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.244.0.0/16")
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    subnets = []
    for number, zone in enumerate("abc"):
        subnet = ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=f"10.0.{number}.0/24",
            Ipv6CidrBlock=ranges[number],
            AvailabilityZone=f"us-east-1{zone}",
        )
        subnets.append(subnet["Subnet"]["SubnetId"])
        tags = [{"Key": "Name", "Value": f"net-{zone}"}]
        # The third is found by its name only.
        if zone != "c":
            tags += [{"Key": f"kubernetes.io/role/{role}", "Value": "1"} for role in ("elb", "internal-elb")]
        ec2.create_tags(Resources=subnets[-1:], Tags=tags)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    run = ec2.run_instances(ImageId=image, MinCount=4, MaxCount=4, SubnetId=subnets[0])
    instances = [instance["InstanceId"] for instance in run["Instances"]]
    similar_names(ec2, elb, vpc, subnets)
    lists = [
        ec2.create_managed_prefix_list(PrefixListName=f"offices-{most}", MaxEntries=most, AddressFamily=family)
        for most, family in ((50, "IPv4"), (40, "IPv4"), (10, "IPv6"))
    ]
    return {
        "vpc": vpc,
        "subnets": subnets,
        "ipv6": ranges,
        "instances": instances,
        "prefix_lists": [each["PrefixList"]["PrefixListId"] for each in lists],
    }


def similar_names(ec2, elb, vpc, subnets):
    """Another cluster's things, with a Service UID like ours, and things of nobody."""
    group = ec2.create_security_group(GroupName="p-contr-created-0", Description="theirs", VpcId=vpc)["GroupId"]
    ec2.create_tags(Resources=[group], Tags=TAGS)
    balancer = elb.create_load_balancer(
        Name="p-contr-created-0", Type="network", Subnets=subnets[:2], SecurityGroups=[group], Tags=TAGS
    )["LoadBalancers"][0]["LoadBalancerArn"]
    target_group = elb.create_target_group(
        Name="p-contr-created-0", Protocol="TCP", Port=80, VpcId=vpc, TargetType="ip", Tags=TAGS
    )["TargetGroups"][0]["TargetGroupArn"]
    forward = [{"Type": "forward", "TargetGroupArn": target_group}]
    elb.create_listener(LoadBalancerArn=balancer, Protocol="TCP", Port=80, DefaultActions=forward)
    elb.create_target_group(Name="nobodys", Protocol="UDP", Port=53, VpcId=vpc, TargetType="instance")


def nodes(endpoint, vpc, count):
    ec2, _ = clients(endpoint)
    found = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    # Where load balancers are: AWS asks nobody in other zones.
    found = [subnet for subnet in found if any(tag["Key"] == "kubernetes.io/role/elb" for tag in subnet.get("Tags", []))]
    subnets = sorted(found, key=lambda subnet: subnet["AvailabilityZone"])
    image = ec2.describe_images()["Images"][0]["ImageId"]
    made = []
    for number in range(int(count)):
        subnet = subnets[number % len(subnets)]
        run = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet["SubnetId"])["Instances"][0]
        made.append({"id": run["InstanceId"], "zone": subnet["AvailabilityZone"], "address": run["PrivateIpAddress"],
                     "name": run["PrivateDnsName"]})
    return made


def instance(does):
    def command(endpoint, id):
        ec2, _ = clients(endpoint)
        getattr(ec2, f"{does}_instances")(InstanceIds=[id])
        return id

    return command


def strangers(endpoint, vpc, namespace, count):
    """What has names like ours, and tags like ours but for the cluster; and what has only the Service's name."""
    ec2, elb = clients(endpoint)
    found = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    subnets = [subnet["SubnetId"] for subnet in sorted(found, key=lambda subnet: subnet["AvailabilityZone"])][:2]
    arns = []
    for number in range(int(count)):
        service = f"s{number:03}"
        tags = [{"Key": "portico.dev/service", "Value": f"{namespace}/{service}"}]
        if number % 2:
            tags += [{"Key": "portico.dev/cluster-uid", "Value": "00000000-0000-4000-8000-000000000000"},
                     {"Key": "portico.dev/service-uid", "Value": f"00000000-0000-4000-8000-{number:012}"}]
        name = f"p-{namespace[:5]}-{service}-{number:016x}"
        group = ec2.create_security_group(GroupName=name, Description="theirs", VpcId=vpc)["GroupId"]
        ec2.create_tags(Resources=[group], Tags=tags)
        balancer = elb.create_load_balancer(Name=name, Type="network", Subnets=subnets, SecurityGroups=[group], Tags=tags)
        arns.append(balancer["LoadBalancers"][0]["LoadBalancerArn"])
        target_group = elb.create_target_group(Name=name, Protocol="TCP", Port=80, VpcId=vpc, TargetType="ip", Tags=tags)
        forward = [{"Type": "forward", "TargetGroupArn": target_group["TargetGroups"][0]["TargetGroupArn"]}]
        elb.create_listener(LoadBalancerArn=arns[-1], Protocol="TCP", Port=80, DefaultActions=forward)
    return arns


def controllers(endpoint):
    """What the AWS Load Balancer Controller makes for Service shop/web of cluster blue; and the same for shop/other."""
    ec2, elb = clients(endpoint)
    vpc = next(vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"] if vpc["CidrBlock"] == "10.0.0.0/16")
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    made = {}
    shared = ec2.create_security_group(GroupName="k8s-traffic-blue-0123456789", Description="shared", VpcId=vpc)["GroupId"]
    for service in ("web", "other", "tls"):
        tags = {"elbv2.k8s.aws/cluster": "blue", "service.k8s.aws/stack": f"shop/{service}"}
        of = lambda resource: [
            {"Key": key, "Value": value} for key, value in {**tags, "service.k8s.aws/resource": resource}.items()
        ]
        name = f"k8s-shop-{service}-0123456789"
        group = ec2.create_security_group(GroupName=name, Description="managed", VpcId=vpc)["GroupId"]
        ec2.create_tags(Resources=[group], Tags=of("ManagedLBSecurityGroup"))
        balancer = elb.create_load_balancer(
            Name=name,
            Type="network",
            Subnets=[subnet["SubnetId"] for subnet in subnets[:2]],
            SecurityGroups=[group] if service != "tls" else [group, shared],
            Tags=of("LoadBalancer"),
        )["LoadBalancers"][0]
        port = 443 if service == "tls" else 80
        target_group = elb.create_target_group(
            Name=name, Protocol="TCP", Port=1, VpcId=vpc, TargetType="instance", Tags=of(f"shop/{service}:{port}"),
            HealthCheckProtocol="TCP", HealthCheckPort="traffic-port", HealthCheckIntervalSeconds=10,
            HealthCheckTimeoutSeconds=10, HealthyThresholdCount=3, UnhealthyThresholdCount=3,
        )["TargetGroups"][0]["TargetGroupArn"]
        listener = {"Protocol": "TCP"}
        if service == "tls":
            certificate = "arn:aws:iam::123456789012:server-certificate/blue"
            listener = {"Protocol": "TLS", "SslPolicy": "ELBSecurityPolicy-2016-08",
                        "Certificates": [{"CertificateArn": certificate}]}
        listener = elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Port=port,
            DefaultActions=[{"Type": "forward", "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": target_group}]}}],
            Tags=of(str(port)),
            **listener,
        )["Listeners"][0]["ListenerArn"]
        if service == "tls":
            # What an annotation asked for that is gone by now: that controller lets it be.
            on = lambda key, value="true": [{"Key": key, "Value": value}]
            elb.modify_load_balancer_attributes(
                LoadBalancerArn=balancer["LoadBalancerArn"], Attributes=on("load_balancing.cross_zone.enabled")
            )
            elb.modify_target_group_attributes(TargetGroupArn=target_group, Attributes=on("stickiness.enabled"))
            elb.modify_listener_attributes(ListenerArn=listener, Attributes=on("tcp.idle_timeout.seconds", "600"))
        made[service] = {"name": name, "arn": balancer["LoadBalancerArn"], "hostname": balancer["DNSName"]}
    return made


def listing(endpoint):
    ec2, elb = clients(endpoint)
    things = {}
    for page in elb.get_paginator("describe_load_balancers").paginate():
        for balancer in page["LoadBalancers"]:
            balancer.pop("State", None)
            balancer["Listeners"] = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
            things[balancer["LoadBalancerArn"]] = balancer
    for page in elb.get_paginator("describe_target_groups").paginate():
        for group in page["TargetGroups"]:
            things[group["TargetGroupArn"]] = group
    arns = list(things)
    for start in range(0, len(arns), 20):
        for described in elb.describe_tags(ResourceArns=arns[start : start + 20])["TagDescriptions"]:
            things[described["ResourceArn"]]["Tags"] = described["Tags"]
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        things[group["GroupId"]] = group
    return things


def hook(endpoint, name, body=b""):
    with urllib.request.urlopen(f"{endpoint}/moto-strict/{name}", data=body) as answer:
        return json.load(answer)


def calls(endpoint):
    return hook(endpoint, "calls")


def tagged_only(endpoint):
    return hook(endpoint, "tagged-only", sys.stdin.buffer.read())


def address(endpoint):
    ec2, _ = clients(endpoint)
    return ec2.allocate_address(Domain="vpc")["AllocationId"]


def subnet(endpoint, id, free):
    return hook(endpoint, "subnet", json.dumps({"id": id, "free": int(free)}).encode())


def pace(endpoint, seconds):
    return hook(endpoint, "pace", json.dumps({"initial_seconds": float(seconds)}).encode())


def fault(endpoint, action, code, times):
    body = {"action": action, "code": code, "times": int(times), "message": "so the test wants it"}
    return hook(endpoint, "fault", json.dumps(body).encode())


def clear(endpoint):
    return hook(endpoint, "clear", b"{}")


def group(endpoint, vpc, name):
    ec2, _ = clients(endpoint)
    made = ec2.create_security_group(GroupName=f"{name}-{id(ec2)}", Description="a user's", VpcId=vpc)["GroupId"]
    ec2.create_tags(Resources=[made], Tags=[{"Key": "Name", "Value": name}])
    return made


def split(endpoint, name):
    _, elb = clients(endpoint)
    balancer = elb.describe_load_balancers(Names=[name])["LoadBalancers"][0]
    listener = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"][0]
    old = listener["DefaultActions"][0]["TargetGroupArn"]
    new = elb.create_target_group(
        Name=f"{name[:20]}-canary", Protocol="TCP", Port=1, VpcId=balancer["VpcId"], TargetType="instance"
    )["TargetGroups"][0]["TargetGroupArn"]
    weights = [{"TargetGroupArn": old, "Weight": 90}, {"TargetGroupArn": new, "Weight": 10}]
    forward = [{"Type": "forward", "ForwardConfig": {"TargetGroups": weights}}]
    elb.modify_listener(ListenerArn=listener["ListenerArn"], DefaultActions=forward)
    return listener["ListenerArn"]


def share(endpoint, arn):
    ec2, _ = clients(endpoint)
    made = ec2.create_vpc_endpoint_service_configuration(NetworkLoadBalancerArns=[arn], AcceptanceRequired=False)
    return made["ServiceConfiguration"]["ServiceId"]


def unshare(endpoint, arn):
    ec2, _ = clients(endpoint)
    found = ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    ids = [one["ServiceId"] for one in found if arn in one.get("NetworkLoadBalancerArns", [])]
    ec2.delete_vpc_endpoint_service_configurations(ServiceIds=ids)
    return ids


def permission(id):
    return [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": id}]}]


def refer(endpoint, id):
    ec2, _ = clients(endpoint)
    vpc = ec2.describe_security_groups(GroupIds=[id])["SecurityGroups"][0]["VpcId"]
    made = ec2.create_security_group(GroupName=f"refers-to-{id}", Description="nodes", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(id))
    return made


def unrefer(endpoint, id):
    ec2, _ = clients(endpoint)
    named = [{"Name": "group-name", "Values": [f"refers-to-{id}"]}]
    made = ec2.describe_security_groups(Filters=named)["SecurityGroups"][0]["GroupId"]
    ec2.delete_security_group(GroupId=made)
    return made


def quota(endpoint, most):
    return hook(endpoint, "quota", json.dumps({"most": int(most)}).encode())


def health(endpoint, target, state):
    return hook(endpoint, "health", json.dumps({"target": target, "state": state}).encode())


def untag(endpoint, ids, prefixes):
    """Removes the tags whose keys begin with one of the prefixes."""
    ec2, elb = clients(endpoint)
    for id in ids.split(","):
        if id.startswith("sg-"):
            tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [id]}])["Tags"]
        else:
            tags = elb.describe_tags(ResourceArns=[id])["TagDescriptions"][0]["Tags"]
        keys = [tag["Key"] for tag in tags if tag["Key"].startswith(tuple(prefixes.split(",")))]
        if keys and id.startswith("sg-"):
            ec2.delete_tags(Resources=[id], Tags=[{"Key": key} for key in keys])
        elif keys:
            elb.remove_tags(ResourceArns=[id], TagKeys=keys)


if __name__ == "__main__":
    commands = {"make": (make, 3), "list": (listing, 3), "controllers": (controllers, 3),
                "nodes": (nodes, 5), "strangers": (strangers, 6), "calls": (calls, 3), "tagged-only": (tagged_only, 3),
                "quota": (quota, 4), "address": (address, 3), "subnet": (subnet, 5), "pace": (pace, 4),
                "fault": (fault, 6), "clear": (clear, 3), "group": (group, 5), "split": (split, 4), "share": (share, 4),
                "unshare": (unshare, 4), "refer": (refer, 4), "unrefer": (unrefer, 4),
                "health": (health, 5), "untag": (untag, 5)}
    commands.update({does: (instance(does), 4) for does in ("stop", "start", "terminate")})
    command, length = commands.get((sys.argv + [""] * 3)[2], (None, 0))
    if len(sys.argv) != length:
        sys.exit(__doc__)
    print(json.dumps(command(sys.argv[1], *sys.argv[3:]), default=str, sort_keys=True))
