"""What moto does otherwise than AWS with a listener's further certificates and attributes.

Owns: AddListenerCertificates and its kin, ModifyListenerAttributes, and what becomes of certificates when a listener
changes. Leaves to nlb.py: everything else of a listener. moto keeps one list, whose first is the default certificate.
"""

from moto.elbv2 import exceptions as X, models as M

B = M.ELBv2Backend
MOST = 25


def _tls(listener, action):
    if listener.protocol != "TLS":
        raise X.ELBClientError(
            "UnsupportedOperation", f"{action} is not supported for a listener of protocol '{listener.protocol}'"
        )


def add_listener_certificates(self, arn, certificates):
    listener = self.describe_listeners(None, [arn])[0]
    _tls(listener, "AddListenerCertificates")
    asked = [certificate["CertificateArn"] for certificate in certificates]
    further = list(dict.fromkeys(listener.certificates[1:] + asked))
    if len(further) > MOST:
        raise X.TooManyCertificatesError()
    listener.certificates = listener.certificates[:1] + further
    return listener.certificates


def remove_listener_certificates(self, arn, certificates):
    listener = self.describe_listeners(None, [arn])[0]
    _tls(listener, "RemoveListenerCertificates")
    asked = [certificate["CertificateArn"] for certificate in certificates]
    further = listener.certificates[1:]
    if any(arn not in further and arn == listener.certificates[0] for arn in asked):
        raise X.ELBClientError("OperationNotPermitted", "Default certificate cannot be removed")
    listener.certificates = listener.certificates[:1] + [arn for arn in further if arn not in asked]


_modify = B.modify_listener


def modify_listener(self, arn, port=None, protocol=None, ssl_policy=None, certificates=None, actions=None):
    listener = self.describe_listeners(None, [arn])[0]
    further = listener.certificates[1:] if listener.protocol == "TLS" else []
    listener = _modify(self, arn, port, protocol, ssl_policy, certificates, actions)
    if listener.protocol == "TLS":
        listener.certificates = listener.certificates[:1] + further
    else:
        listener.certificate, listener.certificates = None, []
    return listener


_attributes = B.modify_listener_attributes


def modify_listener_attributes(self, listener_arn, attrs):
    listener = self.describe_listeners(None, [listener_arn])[0]
    for attribute in attrs:
        key, value = attribute["Key"], attribute["Value"]
        if key != "tcp.idle_timeout.seconds" or "TCP" not in listener.protocol and listener.protocol != "TLS":
            raise X.ValidationError(f"Listener attribute key '{key}' is not recognized")
        if not value.isdigit() or not 60 <= int(value) <= 6000:
            raise X.ValidationError(f"'{value}' is not a valid value for '{key}'")
    return _attributes(self, listener_arn, attrs)


B.add_listener_certificates = add_listener_certificates
B.remove_listener_certificates = remove_listener_certificates
B.modify_listener = modify_listener
B.modify_listener_attributes = modify_listener_attributes
