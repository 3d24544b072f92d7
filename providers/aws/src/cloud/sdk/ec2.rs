//! EC2: security groups, prefix lists and subnets.
//!
//! Owns: requests and reading answers. Leaves to others: which resources there should be.
//! Invariant: every rule is read; those that this provider never writes (other protocols, port ranges, references) as foreign.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{
    Filter as Ec2Filter, IpPermission, IpRange, Ipv6Range, ManagedPrefixList, PrefixListId, ResourceType,
    SecurityGroup as Found, Subnet as FoundSubnet, Tag, TagSpecification,
};
use ipnet::IpNet;
use portico_provider::IpFamily;

use super::Sdk;
use super::elb::need;
use super::failure::failed;
use crate::cloud::Answer;
use crate::cloud::resources::{
    Filter, ForeignRule, Id, PrefixList, Rule, RuleProtocol, SecurityGroup, Source, Subnet, Tags,
};

const DESCRIBE_GROUPS: &str = "DescribeSecurityGroups";

fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Ec2Filter {
    Ec2Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

impl Sdk {
    async fn groups(&self, filters: Vec<Ec2Filter>) -> Answer<Vec<SecurityGroup>> {
        let pages = self.ec2.describe_security_groups().set_filters(Some(filters)).into_paginator();
        let found = pages.items().send().try_collect().await;
        let found = found.map_err(|error| failed(DESCRIBE_GROUPS, error))?;
        found.iter().map(read).collect()
    }
}

impl Sdk {
    /// `DescribeSecurityGroups` with one of these values in each of these tags; at most 200 values.
    pub(crate) async fn security_groups(&self, tags: &Filter) -> Answer<Vec<SecurityGroup>> {
        let filters = tags.iter().map(|(key, values)| filter(format!("tag:{key}"), values.iter().cloned()));
        self.groups(filters.collect()).await
    }

    /// `DescribeSecurityGroups` by VPC and name; at most 200 names.
    pub(crate) async fn security_groups_named(
        &self,
        vpc: &str,
        names: &BTreeSet<String>,
    ) -> Answer<Vec<SecurityGroup>> {
        let names = filter("group-name", names.iter().cloned());
        self.groups(vec![filter("vpc-id", [vpc.to_owned()]), names]).await
    }

    /// `DescribeSecurityGroups` by VPC and tag `Name`; with that.
    pub(crate) async fn security_groups_called(
        &self,
        vpc: &str,
        names: &BTreeSet<String>,
    ) -> Answer<Vec<(String, Id)>> {
        let names = filter("tag:Name", names.iter().cloned());
        let found = self.groups(vec![filter("vpc-id", [vpc.to_owned()]), names]).await?;
        let having = |mut group: SecurityGroup| Some((group.tags.remove("Name")?, group.id));
        Ok(found.into_iter().filter_map(having).collect())
    }

    pub(crate) async fn create_security_group(
        &self,
        vpc: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Answer<Id> {
        const OPERATION: &str = "CreateSecurityGroup";
        let tagged = TagSpecification::builder()
            .resource_type(ResourceType::SecurityGroup)
            .set_tags(Some(sdk_tags(tags)))
            .build();
        let call = self.ec2.create_security_group().vpc_id(vpc).group_name(name).description(description);
        let answer = call.tag_specifications(tagged).send().await;
        let answer = answer.map_err(|error| failed(OPERATION, error))?;
        Ok(Id(need(OPERATION, "ID", answer.group_id)?))
    }

    /// `ec2:CreateTags` on a security group.
    pub(crate) async fn add_security_group_tags(&self, id: &Id, tags: &Tags) -> Answer<()> {
        let sent = self.ec2.create_tags().resources(&id.0).set_tags(Some(sdk_tags(tags))).send().await;
        sent.map(drop).map_err(|error| failed("CreateTags", error))
    }

    pub(crate) async fn authorize(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        let call = self.ec2.authorize_security_group_ingress().group_id(&group.0);
        let sent = call.set_ip_permissions(Some(permissions(rules))).send().await;
        sent.map(drop).map_err(|error| failed("AuthorizeSecurityGroupIngress", error))
    }

    pub(crate) async fn revoke(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        let call = self.ec2.revoke_security_group_ingress().group_id(&group.0);
        let sent = call.set_ip_permissions(Some(permissions(rules))).send().await;
        sent.map(drop).map_err(|error| failed("RevokeSecurityGroupIngress", error))
    }

    pub(crate) async fn delete_security_group(&self, id: &Id) -> Answer<()> {
        let sent = self.ec2.delete_security_group().group_id(&id.0).send().await;
        sent.map(drop).map_err(|error| failed("DeleteSecurityGroup", error))
    }

    /// `DescribeManagedPrefixLists` by ID; all of them where none is named.
    pub(crate) async fn prefix_lists(&self, ids: &BTreeSet<String>) -> Answer<Vec<PrefixList>> {
        let named = (!ids.is_empty()).then(|| ids.iter().cloned().collect());
        let pages = self.ec2.describe_managed_prefix_lists().set_prefix_list_ids(named).into_paginator();
        let found = pages.items().send().try_collect().await;
        let found = found.map_err(|error| failed("DescribeManagedPrefixLists", error))?;
        Ok(found.into_iter().filter_map(read_list).collect())
    }

    /// `DescribeSubnets` of a VPC.
    pub(crate) async fn subnets(&self, vpc: &str) -> Answer<Vec<Subnet>> {
        let pages = self.ec2.describe_subnets().filters(filter("vpc-id", [vpc.to_owned()])).into_paginator();
        let found = pages.items().send().try_collect().await;
        let found = found.map_err(|error| failed("DescribeSubnets", error))?;
        Ok(found.into_iter().filter_map(read_subnet).collect())
    }
}

fn read(group: &Found) -> Answer<SecurityGroup> {
    Ok(SecurityGroup {
        id: Id(need(DESCRIBE_GROUPS, "ID", group.group_id.clone())?),
        name: need(DESCRIBE_GROUPS, "name", group.group_name.clone())?,
        rules: group.ip_permissions().iter().flat_map(rules).collect(),
        foreign: group.ip_permissions().iter().flat_map(foreign).collect(),
        tags: read_tags(group.tags()),
    })
}

/// The sources of a permission that can be rules of ours.
fn sources(permission: &IpPermission) -> impl Iterator<Item = &str> {
    let v4 = permission.ip_ranges().iter().filter_map(IpRange::cidr_ip);
    let v6 = permission.ipv6_ranges().iter().filter_map(Ipv6Range::cidr_ipv6);
    v4.chain(v6).chain(permission.prefix_list_ids().iter().filter_map(PrefixListId::prefix_list_id))
}

/// The protocol and port of a permission, if this provider writes such ones.
fn own_form(permission: &IpPermission) -> Option<(RuleProtocol, u16)> {
    let protocol = permission.ip_protocol()?.parse().ok()?;
    let port = permission.from_port().filter(|from| permission.to_port() == Some(*from));
    Some((protocol, port?.try_into().ok()?))
}

fn rules(permission: &IpPermission) -> Vec<Rule> {
    let Some((protocol, port)) = own_form(permission) else { return Vec::new() };
    let source = |text: &str| match text.strip_prefix("pl-") {
        Some(_) => Some(Source::PrefixList(text.to_owned())),
        None => text.parse::<IpNet>().ok().map(Source::Range),
    };
    sources(permission).filter_map(source).map(|source| Rule { protocol, port, source }).collect()
}

/// The rest of `rules`. A port that cannot be read counts as all of them.
fn foreign(permission: &IpPermission) -> Vec<ForeignRule> {
    let groups = permission.user_id_group_pairs().iter().filter_map(|pair| pair.group_id());
    let others = sources(permission).filter(|_| own_form(permission).is_none());
    let number = |port: Option<i32>| u16::try_from(port?).ok();
    let ports = number(permission.from_port()).zip(number(permission.to_port()));
    let protocol = permission.ip_protocol().unwrap_or("-1");
    let of = |source: &str| ForeignRule { protocol: protocol.to_owned(), ports, source: source.to_owned() };
    groups.chain(others).map(of).collect()
}

fn read_tags(tags: &[Tag]) -> Tags {
    let pair = |tag: &Tag| {
        Some((tag.key.clone().filter(|key| !key.is_empty())?, tag.value.clone().unwrap_or_default()))
    };
    tags.iter().filter_map(pair).collect()
}

fn sdk_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn permissions(rules: &[Rule]) -> Vec<IpPermission> {
    let permission = |Rule { protocol, port, source }: &Rule| {
        let port = i32::from(*port);
        let permission = IpPermission::builder().ip_protocol(protocol.as_str()).from_port(port).to_port(port);
        let text = source.to_string();
        match source {
            Source::Range(IpNet::V4(_)) => permission.ip_ranges(IpRange::builder().cidr_ip(text).build()),
            Source::Range(IpNet::V6(_)) => {
                permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(text).build())
            }
            Source::PrefixList(_) => {
                permission.prefix_list_ids(PrefixListId::builder().prefix_list_id(text).build())
            }
        }
        .build()
    };
    rules.iter().map(permission).collect()
}

fn read_list(list: ManagedPrefixList) -> Option<PrefixList> {
    let family = match list.address_family()? {
        "IPv6" => IpFamily::IPv6,
        _ => IpFamily::IPv4,
    };
    // AWS's own lists show no maximum; their weights are in its documents only. CloudFront's, the heaviest, is 55.
    let most = list.max_entries().and_then(|most| most.try_into().ok()).unwrap_or(55);
    Some(PrefixList { id: list.prefix_list_id?, family, most })
}

fn read_subnet(subnet: FoundSubnet) -> Option<Subnet> {
    let ranges = subnet.ipv6_cidr_block_association_set().iter();
    let ipv6 = ranges.filter_map(|range| range.ipv6_cidr_block()?.parse().ok()).collect();
    let free = subnet.available_ip_address_count().and_then(|free| free.try_into().ok());
    let tags = read_tags(subnet.tags());
    Some(Subnet { id: subnet.subnet_id?, zone: subnet.availability_zone?, ipv6, free, tags })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Answering;
    use super::*;
    use crate::cloud::Trouble;

    async fn groups(status: u16, answer: &'static str) -> Answer<Vec<SecurityGroup>> {
        Answering::with(status, answer).sdk().security_groups(&Filter::new()).await
    }

    #[tokio::test]
    async fn every_rule_is_read_and_those_that_are_not_ours_to_write_apart() {
        let answer = r#"<DescribeSecurityGroupsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><securityGroupInfo><item>
            <groupId>sg-1</groupId><groupName>p</groupName><ipPermissions>
              <item><ipProtocol>tcp</ipProtocol><fromPort>80</fromPort><toPort>80</toPort>
                <ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges>
                <ipv6Ranges><item><cidrIpv6>2001:db8::/32</cidrIpv6></item></ipv6Ranges>
                <prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds>
                <groups><item><userId>1</userId><groupId>sg-9</groupId></item></groups></item>
              <item><ipProtocol>tcp</ipProtocol><fromPort>1</fromPort><toPort>9</toPort>
                <ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges></item>
              <item><ipProtocol>-1</ipProtocol><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item>
            </ipPermissions><tagSet><item><key>a</key><value>b</value></item></tagSet></item></securityGroupInfo>
            </DescribeSecurityGroupsResponse>"#;
        let groups = groups(200, answer).await.unwrap();
        let rules: Vec<String> = groups[0].rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["tcp/80 from 10.0.0.0/8", "tcp/80 from 2001:db8::/32", "tcp/80 from pl-1"]);
        let foreign: Vec<String> = groups[0].foreign.iter().map(ToString::to_string).collect();
        let expected = ["everything from 0.0.0.0/0", "tcp/1-9 from 10.0.0.0/8", "tcp/80-80 from sg-9"];
        assert_eq!(foreign, expected);
        let opens =
            |port| groups[0].foreign.iter().filter(|rule| rule.opens(RuleProtocol::Tcp, port)).count();
        assert_eq!((opens(80), opens(9), opens(443)), (2, 2, 1));
        assert_eq!(groups[0].tags.get("a").map(String::as_str), Some("b"));
    }

    #[tokio::test]
    async fn a_refusal_is_read_and_anything_else_is_no_answer() {
        let denied = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>";
        let error = groups(403, denied).await.unwrap_err();
        assert_eq!((error.trouble, error.message.as_str()), (Trouble::Denied, "no"));
        for (status, text) in [(200, "<oops"), (502, "<html>")] {
            assert_eq!(groups(status, text).await.unwrap_err().trouble, Trouble::Unavailable, "{text}");
        }
    }
}
