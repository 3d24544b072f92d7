//! `portico-nodeproxy`: makes the VIPs and NodePorts of Services carry traffic on one node.

pub mod dataplane;
