//! EC2: security groups and subnets.
//!
//! Owns: requests and reading answers. Leaves to others: signing and sending (`query`), which things there should be.
//! Invariant: every rule is read; those that this provider never writes (other protocols, port ranges, references) as foreign.
//! Ten calls by hand instead of `aws-sdk-ec2`, whose 1.2 million lines cost every fresh build minutes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use portico_provider::IpFamily;
use roxmltree::{Document, Node};

use super::Sdk;
use crate::cloud::resources::{
    Filter, ForeignRule, Id, PrefixList, Rule, RuleProtocol, SecurityGroup, Source, Subnet, Tags,
};
use crate::cloud::{Answer, CloudError, Trouble};

/// Parameters of a call, in EC2's flattened form: `Filter.1.Name=vpc-id`.
type Parameters = Vec<(String, String)>;

const DESCRIBE_GROUPS: &str = "DescribeSecurityGroups";
const DESCRIBE_SUBNETS: &str = "DescribeSubnets";

fn filters(filters: &[(&str, Vec<&str>)]) -> Parameters {
    let mut parameters = Parameters::new();
    for (number, (name, values)) in (1..).zip(filters) {
        parameters.push((format!("Filter.{number}.Name"), (*name).to_owned()));
        for (nth, value) in (1..).zip(values) {
            parameters.push((format!("Filter.{number}.Value.{nth}"), (*value).to_owned()));
        }
    }
    parameters
}

fn parse<'a>(operation: &'static str, text: &'a str) -> Answer<Document<'a>> {
    Document::parse(text).map_err(|error| unreadable(operation, error.to_string()))
}

fn unreadable(operation: &'static str, message: String) -> CloudError {
    CloudError { operation, trouble: Trouble::Unavailable, code: "UnreadableAnswer".to_owned(), message }
}

fn child<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).and_then(|child| child.text()).filter(|text| !text.is_empty())
}

/// `<name><item/>…</name>`.
fn items<'a, 'b>(node: Node<'a, 'b>, name: &str) -> impl Iterator<Item = Node<'a, 'b>> {
    child(node, name).into_iter().flat_map(|list| list.children().filter(Node::is_element))
}

impl crate::cloud::Network for Sdk {
    async fn security_groups(&self, tags: &Filter) -> Answer<Vec<SecurityGroup>> {
        let named: Vec<(String, Vec<&str>)> = tags
            .iter()
            .map(|(key, values)| (format!("tag:{key}"), values.iter().map(String::as_str).collect()))
            .collect();
        let wanted: Vec<(&str, Vec<&str>)> =
            named.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
        let answer = self.ec2.call(DESCRIBE_GROUPS, filters(&wanted)).await?;
        read_groups(&answer)
    }

    async fn security_groups_named(&self, vpc: &str, names: &BTreeSet<String>) -> Answer<Vec<SecurityGroup>> {
        let wanted = [("vpc-id", vec![vpc]), ("group-name", names.iter().map(String::as_str).collect())];
        let answer = self.ec2.call(DESCRIBE_GROUPS, filters(&wanted)).await?;
        read_groups(&answer)
    }

    async fn security_groups_called(&self, vpc: &str, names: &BTreeSet<String>) -> Answer<Vec<(String, Id)>> {
        let wanted = [("vpc-id", vec![vpc]), ("tag:Name", names.iter().map(String::as_str).collect())];
        let answer = self.ec2.call(DESCRIBE_GROUPS, filters(&wanted)).await?;
        let having = |mut group: SecurityGroup| Some((group.tags.remove("Name")?, group.id));
        Ok(read_groups(&answer)?.into_iter().filter_map(having).collect())
    }

    async fn create_security_group(
        &self,
        vpc: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Answer<Id> {
        const OPERATION: &str = "CreateSecurityGroup";
        let fixed = [
            ("VpcId", vpc),
            ("GroupName", name),
            ("GroupDescription", description),
            ("TagSpecification.1.ResourceType", "security-group"),
        ];
        let mut parameters: Parameters =
            fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((format!("TagSpecification.1.Tag.{number}.Key"), key.clone()));
            parameters.push((format!("TagSpecification.1.Tag.{number}.Value"), value.clone()));
        }
        let answer = self.ec2.call(OPERATION, parameters).await?;
        let document = parse(OPERATION, &answer)?;
        let id = text(document.root_element(), "groupId");
        id.map(|id| Id(id.to_owned())).ok_or_else(|| unreadable(OPERATION, "there is no groupId".to_owned()))
    }

    async fn add_security_group_tags(&self, id: &Id, tags: &Tags) -> Answer<()> {
        let mut parameters = vec![("ResourceId.1".to_owned(), id.0.clone())];
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((format!("Tag.{number}.Key"), key.clone()));
            parameters.push((format!("Tag.{number}.Value"), value.clone()));
        }
        self.ec2.call("CreateTags", parameters).await.map(drop)
    }

    async fn authorize(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        self.ec2.call("AuthorizeSecurityGroupIngress", permissions(group, rules)).await.map(drop)
    }

    async fn revoke(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        self.ec2.call("RevokeSecurityGroupIngress", permissions(group, rules)).await.map(drop)
    }

    async fn delete_security_group(&self, id: &Id) -> Answer<()> {
        self.ec2.call("DeleteSecurityGroup", vec![("GroupId".to_owned(), id.0.clone())]).await.map(drop)
    }

    async fn prefix_lists(&self, ids: &BTreeSet<String>) -> Answer<Vec<PrefixList>> {
        const OPERATION: &str = "DescribeManagedPrefixLists";
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let named = (1..).zip(ids).map(|(number, id)| (format!("PrefixListId.{number}"), id.clone()));
            let next = token.map(|token| ("NextToken".to_owned(), token));
            let answer = self.ec2.call(OPERATION, named.chain(next).collect()).await?;
            let document = parse(OPERATION, &answer)?;
            all.extend(items(document.root_element(), "prefixListSet").filter_map(read_list));
            token = text(document.root_element(), "nextToken").map(str::to_owned);
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    async fn subnets(&self, vpc: &str) -> Answer<Vec<Subnet>> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut parameters = filters(&[("vpc-id", vec![vpc])]);
            parameters.extend(token.map(|token| ("NextToken".to_owned(), token)));
            let answer = self.ec2.call(DESCRIBE_SUBNETS, parameters).await?;
            let document = parse(DESCRIBE_SUBNETS, &answer)?;
            all.extend(items(document.root_element(), "subnetSet").filter_map(|subnet| {
                let (id, zone) =
                    (text(subnet, "subnetId")?.to_owned(), text(subnet, "availabilityZone")?.to_owned());
                let ranges = items(subnet, "ipv6CidrBlockAssociationSet");
                let ipv6 = ranges.filter_map(|range| text(range, "ipv6CidrBlock")?.parse().ok()).collect();
                let free = text(subnet, "availableIpAddressCount").and_then(|free| free.parse().ok());
                Some(Subnet { id, zone, ipv6, free, tags: read_tags(subnet) })
            }));
            token = text(document.root_element(), "nextToken").map(str::to_owned);
            if token.is_none() {
                return Ok(all);
            }
        }
    }
}

fn read_groups(answer: &str) -> Answer<Vec<SecurityGroup>> {
    let document = parse(DESCRIBE_GROUPS, answer)?;
    Ok(items(document.root_element(), "securityGroupInfo").filter_map(read).collect())
}

fn read(group: Node<'_, '_>) -> Option<SecurityGroup> {
    Some(SecurityGroup {
        id: Id(text(group, "groupId")?.to_owned()),
        name: text(group, "groupName")?.to_owned(),
        rules: items(group, "ipPermissions").flat_map(rules).collect(),
        foreign: items(group, "ipPermissions").flat_map(foreign).collect(),
        tags: read_tags(group),
    })
}

/// The protocol and port of a permission, if this provider writes such ones.
fn own_form(permission: Node<'_, '_>) -> Option<(RuleProtocol, u16)> {
    let protocol = text(permission, "ipProtocol")?.parse().ok()?;
    let port = text(permission, "fromPort").filter(|from| text(permission, "toPort") == Some(*from));
    Some((protocol, port?.parse().ok()?))
}

fn rules(permission: Node<'_, '_>) -> Vec<Rule> {
    let Some((protocol, port)) = own_form(permission) else { return Vec::new() };
    let v4 = items(permission, "ipRanges").filter_map(|range| text(range, "cidrIp"));
    let v6 = items(permission, "ipv6Ranges").filter_map(|range| text(range, "cidrIpv6"));
    let ranges = v4.chain(v6).filter_map(|range| range.parse::<IpNet>().ok()).map(Source::Range);
    let lists = items(permission, "prefixListIds").filter_map(|list| text(list, "prefixListId"));
    let lists = lists.map(|id| Source::PrefixList(id.to_owned()));
    ranges.chain(lists).map(|source| Rule { protocol, port, source }).collect()
}

/// The rest of `rules`. A port that cannot be read counts as all of them.
fn foreign(permission: Node<'_, '_>) -> Vec<ForeignRule> {
    let named = |list, part| items(permission, list).filter_map(move |it| text(it, part));
    let mut sources: Vec<&str> = named("groups", "groupId").collect();
    if own_form(permission).is_none() {
        sources.extend(named("ipRanges", "cidrIp").chain(named("ipv6Ranges", "cidrIpv6")));
        sources.extend(named("prefixListIds", "prefixListId"));
    }
    let number = |name| text(permission, name).and_then(|port| port.parse::<u16>().ok());
    let ports = number("fromPort").zip(number("toPort"));
    let protocol = text(permission, "ipProtocol").unwrap_or("-1");
    let of = |source: &str| ForeignRule { protocol: protocol.to_owned(), ports, source: source.to_owned() };
    sources.into_iter().map(of).collect()
}

fn read_tags(node: Node<'_, '_>) -> Tags {
    let tags = items(node, "tagSet");
    tags.filter_map(|tag| {
        Some((text(tag, "key")?.to_owned(), text(tag, "value").unwrap_or_default().to_owned()))
    })
    .collect()
}

fn permissions(group: &Id, rules: &[Rule]) -> Parameters {
    let mut parameters = vec![("GroupId".to_owned(), group.0.clone())];
    for (number, Rule { protocol, port, source }) in (1..).zip(rules) {
        let range = match source {
            Source::Range(IpNet::V4(_)) => "IpRanges.1.CidrIp",
            Source::Range(IpNet::V6(_)) => "Ipv6Ranges.1.CidrIpv6",
            Source::PrefixList(_) => "PrefixListIds.1.PrefixListId",
        };
        let port = port.to_string();
        let parts = [
            ("IpProtocol", protocol.as_str().to_owned()),
            ("FromPort", port.clone()),
            ("ToPort", port),
            (range, source.to_string()),
        ];
        parameters.extend(parts.map(|(name, value)| (format!("IpPermissions.{number}.{name}"), value)));
    }
    parameters
}

fn read_list(list: Node<'_, '_>) -> Option<PrefixList> {
    let family = match text(list, "addressFamily")? {
        "IPv6" => IpFamily::IPv6,
        _ => IpFamily::IPv4,
    };
    // AWS's own lists show no maximum; their weights are in its documents only. CloudFront's, the heaviest, is 55.
    let most = text(list, "maxEntries").and_then(|most| most.parse().ok()).unwrap_or(55);
    Some(PrefixList { id: text(list, "prefixListId")?.to_owned(), family, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_read_and_those_that_are_not_ours_to_write_apart() {
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
        let groups = read_groups(answer).unwrap();
        let rules: Vec<String> = groups[0].rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["tcp/80 from 10.0.0.0/8", "tcp/80 from 2001:db8::/32", "tcp/80 from pl-1"]);
        let foreign: Vec<String> = groups[0].foreign.iter().map(ToString::to_string).collect();
        let expected = ["everything from 0.0.0.0/0", "tcp/1-9 from 10.0.0.0/8", "tcp/80-80 from sg-9"];
        assert_eq!(foreign, expected);
        let opens =
            |port| groups[0].foreign.iter().filter(|rule| rule.opens(RuleProtocol::Tcp, port)).count();
        assert_eq!((opens(80), opens(9), opens(443)), (2, 2, 1));
        assert_eq!(groups[0].tags.get("a").map(String::as_str), Some("b"));
        assert!(read_groups("<oops").is_err());
    }
}
