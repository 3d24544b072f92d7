//! The listeners of one load balancer: where they send, their certificates and attributes.
//!
//! Owns: what changes of a listener, in place. Leaves to others: the groups behind them (`balancer`), the order (`draft`).
//! Invariant: a certificate is added before another becomes the default one, and taken away after. Certificates beside
//! the default one and attributes are read, and so compared, only on a load balancer that is marked: whoever never
//! asked for any pays no reads for them. The mark is made before the first of them is set, so that none is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::balancer::{Parts, differing};
use super::draft::Draft;
use crate::cloud::resources::{Listener, ListenerExtras, Transport};
use crate::observed::Balancer;
use crate::step::{Action, Change, ListenerChange, ListenerRef, New};
use crate::tags;
use crate::wanted::WantedListener;

/// AWS's default of each attribute of listeners that has one.
const DEFAULTS: [(&str, &str); 1] = [("tcp.idle_timeout.seconds", "350")];

impl Parts<'_> {
    /// Whether some listener is to have more than its specification.
    pub(super) fn wants_extras(&self) -> bool {
        self.wanted.listeners.values().any(|listener| listener.extras != ListenerExtras::default())
    }

    pub(super) fn listeners(&self, draft: &mut Draft<'_>) {
        if let Some(current) = self.current
            && current.extras.is_none()
            && self.wants_extras()
        {
            let action = Action::note(self.itself(), tags::with_extras());
            draft.additive(action, "certificates and attributes of its listeners are compared from now on");
        }
        let none = BTreeMap::new();
        let present: &BTreeMap<u16, Listener> = self.current.map_or(&none, |current| &current.listeners);
        for (group, wanted) in self.wanted.target_groups(self.owner, self.name) {
            let listener = present.get(&wanted.spec.port);
            self.listener(draft, &group, wanted, listener);
            self.extras(draft, wanted, listener);
        }
        for (port, listener) in present.iter().filter(|(port, _)| !self.wanted.listeners.contains_key(port)) {
            draft.delete_listener(*port, &listener.id, "the Service has no such port");
        }
    }

    fn listener(
        &self,
        draft: &mut Draft<'_>,
        group: &str,
        wanted: &WantedListener,
        present: Option<&Listener>,
    ) {
        let group = self.group_named(group);
        let (port, spec) = (wanted.spec.port, wanted.spec.clone());
        match present {
            None if !self.takes(spec.protocol) => {
                let what =
                    format!("{} to be {} before it has UDP on port {port}", self.name, self.wanted.families);
                draft.wait(what, self.site.pace.wait(0));
            }
            None => {
                let tags = self.tags();
                let load_balancer = self.itself();
                let new = New::Listener { load_balancer, spec, target_group: group, tags };
                let action = Action::Create(new);
                draft.additive(action, format!("the Service has port {port}"));
            }
            Some(listener) if listener.spec != spec || listener.group != group.id => {
                let id = Some(listener.id.clone());
                let listener = ListenerRef { load_balancer: self.itself(), port, id };
                let action = Action::Modify(Change::Listener(listener, ListenerChange::Spec(spec, group)));
                draft.destructive(action, "its protocol, certificate or target group differs");
            }
            Some(_) => {}
        }
    }

    fn extras(&self, draft: &mut Draft<'_>, wanted: &WantedListener, present: Option<&Listener>) {
        let ListenerExtras { certificates, attributes } = &wanted.extras;
        let port = wanted.spec.port;
        let known = present.and_then(|_| of(self.current?, port));
        let nothing = ListenerExtras::default();
        let shown = known.unwrap_or(&nothing);
        let id = present.map(|listener| listener.id.clone());
        let listener = ListenerRef { load_balancer: self.itself(), port, id };
        let modify = |change| Action::Modify(Change::Listener(listener.clone(), change));
        let missing: BTreeSet<String> = certificates.difference(&shown.certificates).cloned().collect();
        if !missing.is_empty() {
            let action = modify(ListenerChange::AddCertificates(missing));
            // One that ends no TLS yet takes none before it is changed.
            if present.is_some_and(|listener| listener.spec.protocol != Transport::Tls) {
                draft.destructive(action, "clients may ask for them by SNI");
            } else {
                draft.additive(action, "clients may ask for them by SNI");
            }
        }
        let stale: BTreeSet<String> = shown.certificates.difference(certificates).cloned().collect();
        // AWS removes them with TLS.
        if !stale.is_empty() && wanted.spec.protocol == Transport::Tls {
            let action = modify(ListenerChange::RemoveCertificates(stale));
            draft.destructive(action, "the Service does not name them");
        }
        let mut asked: BTreeMap<String, String> = DEFAULTS
            .iter()
            .filter(|(key, _)| shown.attributes.contains_key(*key))
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        asked.extend(attributes.clone());
        let differing = differing(&asked, &shown.attributes);
        if !differing.is_empty() {
            let action = modify(ListenerChange::Attributes(differing));
            draft.destructive(action, "they are not as the Service asks");
        }
    }
}

fn of(balancer: &Balancer, port: u16) -> Option<&ListenerExtras> {
    balancer.extras.as_ref()?.get(&port)
}
