#!/usr/bin/env python3
"""An account to test in, made and read by boto3: a second client, that knows nothing of Portico.

usage: account.py ENDPOINT make     a VPC, tagged subnets, instances and somebody else's look-alikes; their IDs as JSON
       account.py ENDPOINT list     every load balancer, target group, listener and security group, with tags, as JSON
       account.py ENDPOINT calls    how often each API was called since the last time this was asked, as JSON
       account.py ENDPOINT crowd    things for the tagging API alone, read from standard input
"""
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
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    subnets = []
    for number, zone in enumerate("abc"):
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"us-east-1{zone}")
        subnets.append(subnet["Subnet"]["SubnetId"])
        tags = [{"Key": "Name", "Value": f"net-{zone}"}]
        # The third is found by its name only.
        if zone != "c":
            tags += [{"Key": f"kubernetes.io/role/{role}", "Value": "1"} for role in ("elb", "internal-elb")]
        ec2.create_tags(Resources=subnets[-1:], Tags=tags)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    run = ec2.run_instances(ImageId=image, MinCount=4, MaxCount=4, SubnetId=subnets[0])
    instances = [instance["InstanceId"] for instance in run["Instances"]]
    look_alikes(ec2, elb, vpc, subnets)
    return {"vpc": vpc, "subnets": subnets, "instances": instances}


def look_alikes(ec2, elb, vpc, subnets):
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


def listing(endpoint):
    ec2, elb = clients(endpoint)
    things = {}
    for balancer in elb.describe_load_balancers()["LoadBalancers"]:
        balancer.pop("State", None)
        balancer["Listeners"] = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
        things[balancer["LoadBalancerArn"]] = balancer
    for group in elb.describe_target_groups()["TargetGroups"]:
        things[group["TargetGroupArn"]] = group
    for described in elb.describe_tags(ResourceArns=list(things))["TagDescriptions"] if things else []:
        things[described["ResourceArn"]]["Tags"] = described["Tags"]
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        things[group["GroupId"]] = group
    return things


def hook(endpoint, name, body=b""):
    with urllib.request.urlopen(f"{endpoint}/moto-strict/{name}", data=body) as answer:
        return json.load(answer)


def calls(endpoint):
    return hook(endpoint, "calls")


def crowd(endpoint):
    return hook(endpoint, "crowd", sys.stdin.buffer.read())


if __name__ == "__main__":
    commands = {"make": make, "list": listing, "calls": calls, "crowd": crowd}
    if len(sys.argv) != 3 or sys.argv[2] not in commands:
        sys.exit(__doc__)
    print(json.dumps(commands[sys.argv[2]](sys.argv[1]), default=str, sort_keys=True))
