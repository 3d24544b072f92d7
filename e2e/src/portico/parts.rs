//! The parts of Portico that are installed, and the chart's values for them. Pure.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    fabric::{CONTROL_PLANE, LOAD_BALANCER, POD_CIDR, POD_CIDR_V6},
    load_balancer,
};

/// The Secret with the load balancer's token.
pub(super) const TOKEN_SECRET: &str = "portico-lb";

/// Which provider the operator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// portico-lb, on a host of its own beside the nodes.
    Local,
    /// Without load balancers: NodePort only.
    BareMetal,
}

/// Which parts are installed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Whether the operator is installed, and with which provider.
    pub operator: Option<Provider>,
    /// Whether the node proxy is installed.
    pub nodeproxy: bool,
    /// Values of the chart that differ from the cluster's own, merged over these.
    pub values: Value,
}

impl Default for Parts {
    fn default() -> Self {
        Self { operator: Some(Provider::Local), nodeproxy: true, values: json!({}) }
    }
}

impl Parts {
    /// Whether nothing is installed.
    pub fn is_empty(&self) -> bool {
        self.operator.is_none() && !self.nodeproxy
    }

    /// Whether portico-lb must run.
    pub fn needs_load_balancer(&self) -> bool {
        self.operator == Some(Provider::Local)
    }

    /// The chart's values for this cluster.
    pub fn values(&self) -> Value {
        let Self { operator, nodeproxy, values } = self;
        let provider = match operator {
            Some(Provider::BareMetal) => "bare-metal",
            Some(Provider::Local) | None => "local",
        };
        let mut all = json!({
            "kubernetesApi": {"host": CONTROL_PLANE, "port": 6443},
            "operator": {
                "enabled": operator.is_some(),
                "provider": provider,
                "defaultClass": true,
                "local": {
                    "endpoint": format!("http://{LOAD_BALANCER}:{}", load_balancer::PORT),
                    "tokenSecret": {"name": TOKEN_SECRET},
                },
                "logFormat": "human",
            },
            "nodeproxy": {"enabled": nodeproxy, "clusterCIDR": format!("{POD_CIDR},{POD_CIDR_V6}"), "logFormat": "human"},
        });
        merge(&mut all, values);
        all
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operator, nodeproxy, values: _ } = self;
        match operator {
            Some(Provider::Local) => f.write_str("operator (provider local)")?,
            Some(Provider::BareMetal) => f.write_str("operator (provider bare-metal)")?,
            None => f.write_str("no operator")?,
        }
        f.write_str(if *nodeproxy { ", node proxy on every node" } else { ", no node proxy" })
    }
}

/// Merges `over` into `base`: objects key by key, anything else replaces.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => base.clone_from(over),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_values_are_merged_over_the_clusters_own() {
        let parts = Parts { values: json!({"operator": {"replicas": 1}}), ..Parts::default() };
        let values = parts.values();
        assert_eq!(values["operator"]["replicas"], 1);
        assert_eq!(values["operator"]["provider"], "local");
    }
}
