#!/usr/bin/env python3
"""What Kubernetes' cloud provider for AWS wants of an account beyond what Portico does.

usage: peer.py ENDPOINT VPC CLUSTER    tags subnets, instances and their security groups as CLUSTER's, and makes the subnets
                                       public, which that provider tells by their routes; prints one of the subnets
"""
import sys

import boto3


def main(endpoint, vpc, cluster):
    ec2 = boto3.Session("test", "test", region_name="us-east-1").client("ec2", endpoint_url=endpoint)
    here = [{"Name": "vpc-id", "Values": [vpc]}]
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets(Filters=here)["Subnets"]]
    gateway = ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    gateway = gateway["InternetGateways"][0]["InternetGatewayId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    for subnet in subnets:
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    instances = [instance for reservation in ec2.describe_instances(Filters=here)["Reservations"]
                 for instance in reservation["Instances"]]
    ids = [instance["InstanceId"] for instance in instances]
    groups = {group["GroupId"] for instance in instances for group in instance["SecurityGroups"]}
    tags = [{"Key": f"kubernetes.io/cluster/{cluster}", "Value": "owned"}]
    ec2.create_tags(Resources=subnets + ids + sorted(groups), Tags=tags)
    print(subnets[0])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
