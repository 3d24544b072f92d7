"""Tags, listings by tags, and pages.

Owns: how many things a call takes, listeners in the tagging API, and things that exist for that API alone.
"""

from moto.core.responses import ActionResult
from moto.elbv2 import exceptions, models
from moto.elbv2.responses import ELBV2Response
from moto.resourcegroupstaggingapi.models import ResourceGroupsTaggingAPIBackend

Backend = models.ELBv2Backend
TAGGED_ONLY = []
_describe_tags = Backend.describe_tags


def describe_tags(self, arns):
    if len(arns) > 20:
        raise exceptions.ValidationError("A maximum of 20 resources can be specified")
    for arn in arns:
        self._get_resource_by_arn(arn)
    return _describe_tags(self, arns)


Backend.describe_tags = describe_tags


def add_tags(self, resource_arns, tags):
    for arn in resource_arns:
        self._get_resource_by_arn(arn)
        if len(set(self.tagging_service.get_tag_dict_for_resource(arn)) | {tag["Key"] for tag in tags}) > 50:
            raise exceptions.TooManyTagsError()
    for arn in resource_arns:
        self.tagging_service.tag_resource(arn, tags)


Backend.add_tags = add_tags


def page(response, field, items):
    size = response._get_int_param("PageSize", 400)
    start = int(response._get_param("Marker") or 0)
    more = str(start + size) if len(items) > start + size else None
    return ActionResult({field: items[start : start + size], "NextMarker": more})


def paged(name, field):
    whole = getattr(ELBV2Response, name)
    setattr(ELBV2Response, name, lambda self: page(self, field, list(whole(self).result[field])))


def describe_load_balancers(self):
    arns, names = self._get_param("LoadBalancerArns", []), self._get_param("Names", [])
    return page(self, "LoadBalancers", self.elbv2_backend.describe_load_balancers(arns, names))


ELBV2Response.describe_load_balancers = describe_load_balancers
paged("describe_target_groups", "TargetGroups")
paged("describe_listeners", "Listeners")
_tagged = Backend.iter_tagged_resources


def iter_tagged_resources(self):
    yield from _tagged(self)
    for lb in self.load_balancers.values():
        for listener in lb.listeners.values():
            yield models.TaggedResource(
                arn=listener.arn,
                tags=self.tagging_service.get_tag_dict_for_resource(listener.arn),
                resource_type="elasticloadbalancing:listener",
            )
    for thing in TAGGED_ONLY:
        yield models.TaggedResource(arn=thing["arn"], tags=thing["tags"], resource_type=thing["type"])


Backend.iter_tagged_resources = iter_tagged_resources
_get_resources = ResourceGroupsTaggingAPIBackend.get_resources


def get_resources(self, *args, **keywords):
    """moto ends a page after 100 tags, asked or not; AWS after as many resources as were asked for."""
    return _get_resources(self, *args, **{**keywords, "tags_per_page": 1 << 30})


ResourceGroupsTaggingAPIBackend.get_resources = get_resources
