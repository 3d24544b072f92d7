//! A cloud whose caller dies before or after any one call, or never gets the reply to one write; or that fails one call, or
//! refuses whatever names one thing.
//!
//! Owns: counting and failing. Leaves to others: the cloud behind it.
//! Invariant: after its death no call of this process reaches the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::cloud::resources::{
    AddressType, Families, Filter, GroupHealth, Health, Id, Listener, ListenerSpec, LoadBalancer, NewGroup,
    NewLoadBalancer, PrefixList, Rule, SecurityGroup, Subnet, SubnetMapping, Tags, Target, TargetGroup,
};
use crate::cloud::{
    Answer, Cloud, CloudError, Listeners, LoadBalancers, Network, Tagging, TargetGroups, Trouble,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// When the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before call `k` (from 1) reaches the cloud.
    Before(usize),
    /// After it took effect, before its reply.
    After(usize),
    /// It lives, and the reply to write `k` is lost.
    LoseReply(usize),
    /// It lives, and call `k` fails without having reached the cloud.
    Fail(usize),
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// What names this fails like that.
    refused: Option<(String, Trouble)>,
    calls: usize,
    writes: usize,
    dead: bool,
    /// Every call, for counting.
    log: Vec<(&'static str, Kind)>,
}

/// The fault, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<State>>);

impl Faults {
    pub(super) fn arm(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap() = State { fault, ..State::default() };
    }

    /// Every call that names `what` is refused like that; `None`: none is.
    pub(super) fn refuse(&self, what: Option<(&str, Trouble)>) {
        self.0.lock().unwrap().refused = what.map(|(what, trouble)| (what.to_owned(), trouble));
    }

    fn refusal(&self, arguments: &str) -> Option<Trouble> {
        let state = self.0.lock().unwrap();
        state.refused.as_ref().filter(|(what, _)| arguments.contains(what)).map(|(_, trouble)| *trouble)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    pub(super) fn log(&self) -> Vec<(&'static str, Kind)> {
        self.0.lock().unwrap().log.clone()
    }

    /// Whether the call may be sent, and whether its reply arrives.
    fn enter(&self, name: &'static str, kind: Kind) -> (bool, bool) {
        let mut state = self.0.lock().unwrap();
        if state.dead {
            return (false, false);
        }
        state.calls += 1;
        state.writes += usize::from(kind == Kind::Write);
        state.log.push((name, kind));
        match state.fault {
            Some(Fault::Before(k)) if k == state.calls => {
                state.dead = true;
                (false, false)
            }
            Some(Fault::After(k)) if k == state.calls => {
                state.dead = true;
                (true, false)
            }
            Some(Fault::Fail(k)) if k == state.calls => (false, false),
            Some(Fault::LoseReply(k)) if kind == Kind::Write && k == state.writes => (true, false),
            _ => (true, true),
        }
    }
}

/// The cloud, with faults.
pub(super) struct Faulty<C> {
    pub(super) cloud: C,
    pub(super) faults: Faults,
}

impl<C> Faulty<C> {
    async fn pass<T>(
        &self,
        operation: &'static str,
        kind: Kind,
        arguments: &str,
        call: impl Future<Output = Answer<T>> + Send,
    ) -> Answer<T> {
        let (sent, heard) = self.faults.enter(operation, kind);
        let failed = |trouble| CloudError {
            operation,
            trouble,
            code: "Fault".to_owned(),
            message: "this process died, or the call failed, or its reply was lost".to_owned(),
        };
        let gone = || failed(Trouble::Unavailable);
        if let Some(trouble) = self.faults.refusal(arguments) {
            return Err(failed(trouble));
        }
        if !sent {
            return Err(gone());
        }
        let answer = call.await;
        if heard { answer } else { Err(gone()) }
    }
}

macro_rules! through {
    ($($api:ident { $($kind:ident $name:ident($($argument:ident: $type:ty),*) -> $out:ty;)+ })+) => {
        $(impl<C: Cloud> $api for Faulty<C> {
            $(async fn $name(&self, $($argument: $type),*) -> Answer<$out> {
                let arguments = format!("{:?}", ($(&$argument,)*));
                self.pass(stringify!($name), Kind::$kind, &arguments, self.cloud.$name($($argument),*)).await
            })+
        })+
    };
}

through! {
    Tagging {
        Read tagged(filter: &Filter) -> Vec<(Id, Tags)>;
    }
    LoadBalancers {
        Read load_balancers(ids: &[Id]) -> Vec<LoadBalancer>;
        Read load_balancer_named(name: &str) -> Option<LoadBalancer>;
        Read load_balancer_attributes(id: &Id) -> Option<BTreeMap<String, String>>;
        Write create_load_balancer(new: &NewLoadBalancer) -> LoadBalancer;
        Write modify_load_balancer_attributes(id: &Id, attributes: &BTreeMap<String, String>) -> ();
        Write set_subnets(id: &Id, subnets: &[SubnetMapping], families: Option<Families>) -> ();
        Write set_security_groups(id: &Id, groups: &[Id]) -> ();
        Write set_address_type(id: &Id, kind: AddressType) -> ();
        Write delete_load_balancer(id: &Id) -> ();
        Read most_load_balancers() -> Option<usize>;
        Read tags(ids: &[Id]) -> BTreeMap<Id, Tags>;
        Write add_tags(ids: &[Id], tags: &Tags) -> ();
    }
    Listeners {
        Read listeners(load_balancer: &Id) -> Vec<Listener>;
        Write create_listener(load_balancer: &Id, spec: &ListenerSpec, group: &Id, tags: &Tags) -> Listener;
        Write modify_listener(id: &Id, spec: &ListenerSpec, group: &Id) -> ();
        Write delete_listener(id: &Id) -> ();
        Read listener_certificates(id: &Id) -> BTreeSet<String>;
        Write add_listener_certificates(id: &Id, arns: &BTreeSet<String>) -> ();
        Write remove_listener_certificates(id: &Id, arns: &BTreeSet<String>) -> ();
        Read listener_attributes(id: &Id) -> BTreeMap<String, String>;
        Write modify_listener_attributes(id: &Id, attributes: &BTreeMap<String, String>) -> ();
    }
    TargetGroups {
        Read target_groups(ids: &[Id]) -> Vec<TargetGroup>;
        Read target_group_named(name: &str) -> Option<TargetGroup>;
        Read target_group_attributes(id: &Id) -> Option<BTreeMap<String, String>>;
        Write create_target_group(new: &NewGroup) -> Id;
        Write modify_health_check(id: &Id, health: &GroupHealth) -> ();
        Write modify_target_group_attributes(id: &Id, attributes: &BTreeMap<String, String>) -> ();
        Write delete_target_group(id: &Id) -> ();
        Read target_health(group: &Id) -> BTreeMap<Target, Health>;
        Write register(group: &Id, targets: &[Target]) -> ();
        Write deregister(group: &Id, targets: &[Target]) -> ();
    }
    Network {
        Read security_groups(filter: &Filter) -> Vec<SecurityGroup>;
        Read security_groups_named(vpc: &str, names: &BTreeSet<String>) -> Vec<SecurityGroup>;
        Read security_groups_called(vpc: &str, names: &BTreeSet<String>) -> Vec<(String, Id)>;
        Write create_security_group(vpc: &str, name: &str, description: &str, tags: &Tags) -> Id;
        Write add_security_group_tags(id: &Id, tags: &Tags) -> ();
        Write authorize(group: &Id, rules: &[Rule]) -> ();
        Write revoke(group: &Id, rules: &[Rule]) -> ();
        Write delete_security_group(id: &Id) -> ();
        Read prefix_lists(ids: &BTreeSet<String>) -> Vec<PrefixList>;
        Read subnets(vpc: &str) -> Vec<Subnet>;
    }
}
