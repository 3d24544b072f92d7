"""Listeners: which target groups they fit, who sends where, further certificates and attributes.

Owns: what moto lacks or does otherwise with a listener. moto keeps one list of certificates, whose first is the default one.
"""

from moto.elbv2 import exceptions, models
from moto.elbv2.exceptions import ELBClientError

Backend = models.ELBv2Backend
MOST_CERTIFICATES = 25


def _target_groups(self, actions):
    return [
        arn
        for action in actions or []
        for arn in self._get_target_group_arns_from(action_data=action if isinstance(action, dict) else action.data)
    ]


def count_uses(self):
    """Each target group knows the load balancers that send to it."""
    uses = {}
    for lb in self.load_balancers.values():
        for listener in lb.listeners.values():
            for rule in listener.rules.values():
                for action in rule.actions:
                    for arn in self._get_target_group_arns_from(action_data=action.data):
                        uses.setdefault(arn, []).append(lb.arn)
    for tg in self.target_groups.values():
        tg.load_balancer_arns = list(dict.fromkeys(uses.get(tg.arn, [])))


FITTING = {"TCP": {"TCP", "TCP_UDP"}, "UDP": {"UDP", "TCP_UDP"}, "TCP_UDP": {"TCP_UDP"}, "TLS": {"TCP", "TLS"}}


def check(self, lb, port, protocol, actions, me=None):
    import families  # which comes after this: its functions call those here

    families.check_udp(lb, protocol)
    for other in lb.listeners.values():
        if other.arn != me and port is not None and str(other.port) == str(port):
            raise ELBClientError("DuplicateListener", f"A listener already exists on this port for this load balancer '{lb.arn}'")
    for arn in _target_groups(self, actions):
        tg = self.target_groups.get(arn)
        if tg is None:
            raise exceptions.ActionTargetGroupNotFoundError(arn)
        if lb.type == "network" and tg.protocol not in FITTING.get(protocol, ()):
            raise exceptions.InvalidConfigurationRequest(
                f"Listener protocol '{protocol}' is not supported with a target group with the protocol '{tg.protocol}'"
            )
        if set(tg.load_balancer_arns) - {lb.arn}:
            raise ELBClientError(
                "TargetGroupAssociationLimit",
                f"The following target groups cannot be associated with more than one load balancer: {arn}",
            )


_create = Backend.create_listener


def create_listener(
    self, load_balancer_arn, protocol, port, ssl_policy, certificate, actions, alpn_policy=None, tags=None
):
    lb = self.load_balancers.get(load_balancer_arn)
    if lb is None:
        raise exceptions.LoadBalancerNotFoundError()
    self._validate_port_and_protocol(lb.type, port, protocol)
    check(self, lb, port, protocol, actions)
    if protocol in ("TLS", "HTTPS") and not certificate:
        raise exceptions.ValidationError("A certificate must be specified for TLS listeners")
    listener = _create(
        self,
        load_balancer_arn,
        protocol,
        port,
        ssl_policy if protocol in ("TLS", "HTTPS") else None,
        certificate,
        actions,
        alpn_policy,
        tags,
    )
    count_uses(self)
    return listener


Backend.create_listener = create_listener


def modify_listener(self, arn, port=None, protocol=None, ssl_policy=None, certificates=None, actions=None):
    listener = self.describe_listeners(None, [arn])[0]
    lb = self.load_balancers[listener.load_balancer_arn]
    self._validate_port_and_protocol(lb.type, port or listener.port, protocol or listener.protocol)
    check(self, lb, port, protocol or listener.protocol, actions or [action.data for action in listener.default_actions], me=arn)
    further = listener.certificates[1:] if listener.protocol == "TLS" else []
    if port is not None:
        listener.port = port
    if protocol:
        listener.protocol = protocol
    if ssl_policy:
        listener.ssl_policy = ssl_policy
    if listener.protocol != "TLS":
        listener.certificate, listener.certificates = None, []
    elif certificates:
        listener.certificate = certificates[0]["CertificateArn"]
        listener.certificates = [listener.certificate] + further
    if actions:
        listener.default_actions = [models.FakeAction(action) for action in actions]
        listener._default_rule[0].actions = listener.default_actions
    count_uses(self)
    return listener


Backend.modify_listener = modify_listener
_delete = Backend.delete_listener


def delete_listener(self, arn):
    deleted = _delete(self, arn)
    count_uses(self)
    return deleted


Backend.delete_listener = delete_listener


def _tls(listener, action):
    if listener.protocol != "TLS":
        raise ELBClientError(
            "UnsupportedOperation", f"{action} is not supported for a listener of protocol '{listener.protocol}'"
        )


def add_listener_certificates(self, arn, certificates):
    listener = self.describe_listeners(None, [arn])[0]
    _tls(listener, "AddListenerCertificates")
    asked = [certificate["CertificateArn"] for certificate in certificates]
    further = list(dict.fromkeys(listener.certificates[1:] + asked))
    if len(further) > MOST_CERTIFICATES:
        raise exceptions.TooManyCertificatesError()
    listener.certificates = listener.certificates[:1] + further
    return listener.certificates


def remove_listener_certificates(self, arn, certificates):
    listener = self.describe_listeners(None, [arn])[0]
    _tls(listener, "RemoveListenerCertificates")
    asked = [certificate["CertificateArn"] for certificate in certificates]
    further = listener.certificates[1:]
    if any(arn not in further and arn == listener.certificates[0] for arn in asked):
        raise ELBClientError("OperationNotPermitted", "Default certificate cannot be removed")
    listener.certificates = listener.certificates[:1] + [arn for arn in further if arn not in asked]


_attributes = Backend.modify_listener_attributes


def modify_listener_attributes(self, listener_arn, attrs):
    listener = self.describe_listeners(None, [listener_arn])[0]
    for attribute in attrs:
        key, value = attribute["Key"], attribute["Value"]
        if key != "tcp.idle_timeout.seconds" or "TCP" not in listener.protocol and listener.protocol != "TLS":
            raise exceptions.ValidationError(f"Listener attribute key '{key}' is not recognized")
        if not value.isdigit() or not 60 <= int(value) <= 6000:
            raise exceptions.ValidationError(f"'{value}' is not a valid value for '{key}'")
    return _attributes(self, listener_arn, attrs)


Backend.add_listener_certificates = add_listener_certificates
Backend.remove_listener_certificates = remove_listener_certificates
Backend.modify_listener_attributes = modify_listener_attributes
